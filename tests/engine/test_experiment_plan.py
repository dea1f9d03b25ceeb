"""What the three experiments run, and the tables made of their records."""

from __future__ import annotations

from statistics import stdev

import pytest

from napari_attnseg.engine.experiment.plan import Plan, Row, Scale, Table
from napari_attnseg.engine.experiment.plan_smooth import PLAIN
from napari_attnseg.engine.experiment.plans import make_plan
from napari_attnseg.engine.experiment.tables import (
    Figure,
    costs_markdown,
    lines_of,
    markdown,
    twins,
    verdicts,
)
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model, model_options
from napari_attnseg.settings import Preprocessing, TrainSettings


def test_smooth_attention_has_the_papers_ten_rows_and_one_without_attention() -> None:
    plan = make_plan("smooth-attention", Scale(size=64, width=0.25, seeds=(0, 1)))
    thresholds = [row.settings.threshold for row in plan.rows]
    assert thresholds == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 2.0, 2.0]
    assert [(run.seed, run.row.label) for run in plan.runs][10:12] == [
        (0, "no attention (gamma 0)"),
        (1, "0.1"),
    ]
    off = plan.rows[-1].settings
    assert (off.gamma_start, off.gamma_lr_factor) == (0.0, 0.0)
    assert {row.settings.preprocessing.size for row in plan.rows} == {64}
    assert {row.settings.options["width"] for row in plan.rows} == {0.25}
    assert {row.full.preprocessing.size for row in plan.rows} == {224}
    assert plan.tables[0].baseline == PLAIN == "2.0 (plain attention)"


def test_joint_attention_has_four_forms_and_nine_structures() -> None:
    plan = make_plan("joint-attention", Scale(size=64, options={"plan": "narrow", "width": 9}))
    forms, structures = plan.tables
    assert [label for label, _ in forms.entries] == [
        "DenseUNet",
        "DenseUNet-SA",
        "DenseUNet-PWA",
        "DenseUNet-JA",
    ]
    by_key = {row.key: row.settings.options for row in plan.rows}
    default = model_options("dense_unet")["structure"]
    assert by_key[dict(forms.entries)["DenseUNet-JA"]]["structure"] == default
    assert [by_key[key]["structure"] for _, key in structures.entries] == list(range(1, 10))
    assert {options["plan"] for options in by_key.values()} == {"narrow"}
    assert not any("width" in options for options in by_key.values())
    assert [row.key for row in plan.rows[:4]] == ["none", "sa", "pwa", f"ja_{default}"]
    assert plan.rows[0].settings.preprocessing.clahe_clip > 0
    for row in plan.rows:
        options = row.settings.options
        create_model(row.settings.model, in_channels=1, classes=1, **options)


def test_pam_unet_shares_runs_between_its_tables() -> None:
    plan = make_plan("pam-unet", Scale(size=64, width=0.25))
    first, second = plan.tables
    assert [label for label, _ in second.entries][-1] == "+ PLA"
    assert dict(first.entries)["PAM-UNet"] == dict(second.entries)["+ PLA"]
    keys = [row.key for row in plan.rows]
    assert len(keys) == len(set(keys))
    assert {key for table in plan.tables for _, key in table.entries} == set(keys)
    wanted = {"PAM-UNet", "Mobile-UNet", "U-Net (ResNet-50)", "DeepLabv3+", "FCN-8s", "HRNet"}
    missing = {words.split(":")[0] for words in plan.left_out}
    assert {label for label, _ in first.entries} | missing >= wanted
    for label in first.published:
        assert label in dict(first.entries) or label in missing
    rows = {row.key: row.settings for row in plan.rows}
    assert rows["pam_unet_pla"].regulariser_weight == pytest.approx(0.01)
    assert rows["pam_unet_cross"].options["gate"] == "cross"


def test_grey_and_ct_data_take_their_own_preprocessing() -> None:
    window = Preprocessing(intensity="window", low=-160, high=240)
    plan = make_plan("smooth-attention", Scale(size=48, preprocessing={"high": 300}), window)
    pre = plan.rows[0].settings.preprocessing
    assert (pre.channels, pre.low, pre.high, pre.size) == (1, -160, 300, 48)


def test_words_for_wrong_plans() -> None:
    with pytest.raises(InputError, match="expected one of smooth-attention, joint-attention"):
        make_plan("smooth", Scale())
    with pytest.raises(InputError, match="expected different ones"):
        make_plan("smooth-attention", Scale(seeds=(1, 1)))
    with pytest.raises(InputError, match="setting that does not exist"):
        make_plan("smooth-attention", Scale(changes={"speed": 3}))


def plan_of(labels: tuple[str, ...], seeds: tuple[int, ...], **table: object) -> Plan:
    """A plan whose row keys are the labels."""
    rows = tuple(Row(label, label, TrainSettings(), TrainSettings()) for label in labels)
    entries = tuple((label, label) for label in labels)
    made = Table("t", entries, ("dice", "recall"), **table)  # type: ignore[arg-type]
    return Plan("pam-unet", "Title", rows, (made,), seeds)


def record(dice: float, recall: float | None, digest: str = "") -> dict:
    return {"metrics": {"dice": dice, "recall": recall}, "digest": digest or str((dice, recall))}


def test_mean_and_spread_by_hand() -> None:
    figure = Figure.of([0.5, 0.7, None, 0.9])
    assert figure is not None
    assert (figure.mean, figure.n) == (pytest.approx(0.7), 3)
    assert figure.sd == pytest.approx(stdev([0.5, 0.7, 0.9])) == pytest.approx(0.2)
    assert str(figure) == "0.7000 ± 0.2000"
    assert str(Figure.of([0.25])) == "0.2500"
    assert Figure.of([None]) is None


def test_the_table_shows_best_missing_and_published() -> None:
    published = {"a": {"dice": 0.9, "gmacs": 35.0}, "b": {"dice": 0.8}}
    plan = plan_of(("a", "b", "c"), (0, 1), published=published, baseline="a")
    records = {
        "a": {0: record(0.5, 0.25), 1: record(0.6, 0.25)},
        "b": {0: record(0.8, None)},
    }
    table = plan.tables[0]
    lines = lines_of(plan, table, records, {})
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in markdown(table, lines).split("\n")
    ]
    assert rows[0] == ["", "Dice", "Recall", "published Dice"]
    assert rows[2] == ["a", "0.5500 ± 0.0707", "0.2500 ± 0.0000", "0.9"]
    assert rows[3] == ["b", "**0.8000** (seed 1 missing)", "not run", "0.8"]
    assert rows[4] == ["c", "not run", "not run", ""]
    said = " ".join(verdicts(table, lines))
    assert "Highest Dice: b (0.8000)." in said
    assert "It is 0.2500 Dice above a (0.5500 ± 0.0707); one seed says nothing" in said
    assert "Order by Dice as published: 0 of 1 pairs of rows." in said


def test_costs_stand_beside_the_published() -> None:
    plan = plan_of(("a", "b"), (0,), published={"a": {"gmacs": 0.85}})
    cost = {"parameters": 1234567, "macs": 2.5e8, "ms": 3.456}
    records: dict = {"a": {}, "b": {}}
    assert costs_markdown(plan.tables[0], lines_of(plan, plan.tables[0], records, {})) == ""
    costs = {"a": {"run": cost, "full": {**cost, "ms": 1234.5}}}
    text = costs_markdown(plan.tables[0], lines_of(plan, plan.tables[0], records, costs))
    assert "| a | 1,234,567 | 0.25 | 3.5 | 1,234,567 | 0.25 | 1234 | 0.85 |" in text
    assert "| b | not measured |" in text


@pytest.mark.parametrize(
    ("second", "words"),
    [(0.62, "less than"), (0.72, "within twice"), (0.9, "more than twice")],
)
def test_a_lead_is_measured_against_the_spread(second: float, words: str) -> None:
    plan = plan_of(("a", "b"), (0, 1), baseline="a")
    spread = {0: record(0.5, 0.1), 1: record(0.64, 0.2)}  # sd 0.099
    records = {"a": spread, "b": {0: record(second, 0.1), 1: record(second, 0.2)}}
    said = " ".join(verdicts(plan.tables[0], lines_of(plan, plan.tables[0], records, {})))
    assert f"{words} the larger spread over seeds (0.0990)" in said


def test_equal_rows_are_called_equal_and_equal_networks_are_named() -> None:
    plan = plan_of(("a", "b", "c"), (0,), baseline="a")
    records = {k: {0: record(0.5, 0.5, "x" if k != "b" else "y")} for k in "abc"}
    lines = lines_of(plan, plan.tables[0], records, {})
    assert verdicts(plan.tables[0], lines) == ["All rows have the same Dice."]
    assert "**" not in markdown(plan.tables[0], lines)
    assert twins(plan, records) == ["Seed 0: a and c are the same network bit for bit."]


def test_constant_masks_are_warned_of_and_never_lead() -> None:
    plan = plan_of(("a", "b", "c"), (0, 1), baseline="a")
    every = {"metrics": {"dice": 0.9, "recall": 1.0, "specificity": 0.0}, "digest": "e"}
    records = {
        "a": {0: record(0.5, 0.4), 1: record(0.6, 0.5)},
        "b": {0: every, 1: every},
        "c": {0: record(0.0, 0.0), 1: record(0.7, 0.6)},
    }
    lines = lines_of(plan, plan.tables[0], records, {})
    rows = markdown(plan.tables[0], lines).splitlines()[2:]
    assert "**" not in rows[1] + rows[2]
    assert rows[1].startswith("| b | 0.9000")
    said = verdicts(plan.tables[0], lines)
    assert said[0].startswith("Warning: b marks every pixel (specificity 0); its figures say")
    assert said[1].startswith("Warning: c marks no right pixel (recall 0) with 1 of 2 seeds; ")
    assert said[2] == "Highest Dice: a (0.5500 ± 0.0707)."
    assert len(said) == 3
