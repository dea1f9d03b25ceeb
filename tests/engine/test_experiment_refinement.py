"""The refinement experiment: one coarse model per seed, refiners and controls on top of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_attnseg.engine.experiment.boundary import band, count_bands
from napari_attnseg.engine.experiment.cost import row_costs
from napari_attnseg.engine.experiment.plan import Plan, Scale
from napari_attnseg.engine.experiment.plans import make_plan
from napari_attnseg.engine.experiment.run import run_plan
from napari_attnseg.engine.experiment.walker import Walker
from napari_attnseg.engine.metrics import iou
from napari_attnseg.io.layout import Layout
from napari_attnseg.io.layouts import find_layout
from napari_attnseg.models.base import create_model

TINY = Scale(
    size=32,
    epochs=1,
    batch=4,
    width=0.125,
    changes={"lr": 3e-3},
    options={"levels": 2, "iterations": 3},
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Ten colour images of odd size with one bright disc each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "discs"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    y, x = np.mgrid[:37, :43]
    for n in range(10):
        mask = np.hypot(y - rng.integers(12, 25), x - rng.integers(12, 30)) < 9
        pixels = rng.integers(0, 60, (37, 43, 3)) + mask[..., None] * np.array([150, 120, 100])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{n}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/{n}.png")
    return find_layout(folder)


def some_rows(*keys: str) -> Plan:
    """The tiny plan with these rows only, without costs."""
    plan = make_plan("refinement", TINY)
    rows = tuple(row for row in plan.rows if row.key in keys)
    tables = []
    for table in plan.tables:
        entries = tuple(e for e in table.entries if e[1] in keys)
        tables.append(replace(table, entries=entries, costs=False))
    return replace(plan, rows=rows, tables=tuple(tables))


def drain(plan: Plan, layout: Layout, out: Path) -> list[tuple[str, str]]:
    """Run to the end; what happened to which run."""
    steps = run_plan(plan, layout, out, device="cpu")
    return [(s.what, s.run.key) for s in steps if s and s.run and s.what != "training"]


def records(out: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in (out / "runs").glob("*.json")}


def test_all_rows_of_a_seed_stand_on_one_coarse_model() -> None:
    plan = make_plan("refinement", Scale(size=64, epochs=9, seeds=(0, 1), changes={"epochs": 7}))
    rows = {row.key: row for row in plan.rows}
    assert rows["coarse"].settings.epochs == 3
    assert rows["cspn"].settings.epochs == 9
    assert rows["cspn"].full.epochs == 40
    assert {row.coarse for row in plan.rows[1:]} == {"coarse"}
    assert [run.settings.coarse for run in plan.runs if run.row.key == "dyspn"] == [
        "coarse_seed0",
        "coarse_seed1",
    ]
    assert {row.settings.preprocessing.size for row in plan.rows} == {64}
    assert [t.curve for t in plan.tables] == [False, True]
    assert plan.tables[1].columns == tuple(f"iou@{t}" for t in range(7))
    longer = make_plan("refinement", replace(TINY, coarse_epochs=5))
    assert longer.rows[0].settings.epochs == 5
    assert longer.rows[1].settings.epochs == 1


def test_controls_have_the_refiners_size() -> None:
    plan = make_plan("refinement", TINY)
    sizes = {}
    for row in plan.rows[1:-1]:
        settings = row.settings
        model = create_model(
            settings.model, in_channels=3, classes=settings.classes, **settings.options
        )
        sizes[row.key] = sum(p.numel() for p in model.parameters())
        trained = [n for n, p in model.named_parameters() if p.requires_grad]
        assert any(n.startswith("coarse.") for n in trained) == (row.key == "trained_on")
    assert sizes["cspn"] == sizes["cspn_fold"]
    assert sizes["dyspn"] == sizes["dyspn_fold"]
    assert sizes["second"] == pytest.approx(sizes["cspn"], rel=0.05)


def test_what_is_measured_and_written(layout: Layout, tmp_path: Path) -> None:
    plan, out = some_rows("coarse", "cspn", "dyspn", "walker"), tmp_path / "out"
    assert [what for what, _ in drain(plan, layout, out)] == ["done"] * 4
    found = records(out)
    coarse, cspn = found["coarse_seed0"], found["cspn_seed0"]
    assert cspn["metrics"]["iou@0"] == coarse["metrics"]["iou"]
    assert cspn["metrics"]["iou@3"] == cspn["metrics"]["iou"]
    assert cspn["metrics"]["iou@1"] != cspn["metrics"]["iou@0"]
    assert cspn["metrics"]["gain"] == cspn["metrics"]["iou"] - coarse["metrics"]["iou"]
    pairs = zip(cspn["per_image"], coarse["per_image"], strict=True)
    assert cspn["metrics"]["better"] == np.mean([a["iou"] > b["iou"] for a, b in pairs])
    assert "gain" not in coarse["metrics"]
    assert 0 < cspn["metrics"]["boundary"] < 1
    walker = found["walker_seed0"]
    assert walker["summary"]["ms"] > 0
    assert walker["digest"] == f"{coarse['digest']}:random_walker"
    report = json.loads((out / "refinement.json").read_text())
    assert (report["done"], report["epochs"], report["coarse_epochs"]) == (4, 1, 3)
    text = (out / "refinement.md").read_text()
    for words in ("1 epoch at most after 3 epochs of the coarse model", "| 0.69 |", "boundary IoU"):
        assert words in text
    assert Image.open(out / "refinement.png").size[1] > 700
    assert not list(out.glob("runs/*.safetensors"))
    assert [what for what, _ in drain(plan, layout, out)] == ["kept"] * 4


def test_a_stopped_experiment_keeps_the_coarse_model_and_makes_it_again_when_gone(
    layout: Layout, tmp_path: Path
) -> None:
    plan, out = some_rows("coarse", "cspn"), tmp_path / "out"
    steps = run_plan(plan, layout, out, device="cpu")
    for step in steps:
        if step is not None and step.number == 2:
            break
    steps.close()
    checkpoint = out / "runs" / "coarse_seed0.safetensors"
    assert checkpoint.is_file()
    assert drain(plan, layout, out) == [("kept", "coarse_seed0"), ("done", "cspn_seed0")]
    before = {key: record["digest"] for key, record in records(out).items()}
    assert not checkpoint.exists()
    (out / "runs" / "cspn_seed0.json").unlink()
    assert drain(plan, layout, out) == [("done", "coarse_seed0"), ("done", "cspn_seed0")]
    assert {key: record["digest"] for key, record in records(out).items()} == before


def test_a_peer_costs_its_coarse_model_and_its_own_time(tmp_path: Path) -> None:
    row = next(row for row in make_plan("refinement", TINY).rows if row.peer)
    (tmp_path / "runs").mkdir()
    record = tmp_path / "runs" / "walker_seed4.json"
    record.write_text(json.dumps({"summary": {"ms": 1e6}}))
    assert list(row_costs(row, 4, tmp_path)) == [False, True]
    cost = json.loads((tmp_path / "costs" / "walker.json").read_text())
    assert 1e6 < cost["run"]["ms"] < 1.1e6
    assert "full" not in cost
    assert list(row_costs(row, 4, tmp_path)) == []


def slow_band(labels: np.ndarray, d: int) -> np.ndarray:
    """From the definition: a pixel stays if a pixel within d is of another class or outside."""
    out = np.zeros_like(labels)
    rows, cols = labels.shape
    for y, x in np.argwhere(labels > 0):
        near = [(y + j, x + i) for j in range(-d, d + 1) for i in range(-d, d + 1)]
        if any(
            not (0 <= v < rows and 0 <= u < cols) or labels[v, u] != labels[y, x] for v, u in near
        ):
            out[y, x] = labels[y, x]
    return out


def test_the_band_is_what_lies_near_the_contour() -> None:
    labels = np.random.default_rng(3).integers(0, 3, (7, 11)).astype(np.uint8)
    labels[1:6, 2:9] = 1
    for d in (1, 2, 3):
        np.testing.assert_array_equal(band(labels, d), slow_band(labels, d))


def test_boundary_iou_by_hand() -> None:
    target = np.zeros((30, 40), np.int16)  # d = 2 % of 50 = 1
    target[5:15, 5:15] = 1  # outline of 36 pixels
    moved = np.zeros((30, 40), np.uint8)
    moved[5:15, 6:16] = 1
    # rows 5 and 14 share 9 pixels each, the four columns 5, 6, 14, 15 nothing else
    assert iou(count_bands(moved, target, 2)) == pytest.approx(18 / 54)
    assert iou(count_bands(target.astype(np.uint8), target, 2)) == 1.0
    target[:, 10:] = -1
    counts = count_bands(moved, target, 2)
    assert counts.total == 30 * 10
    assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (8, 8, 10)


def test_a_walker_goes_up_to_the_edge_in_the_image() -> None:
    image = np.zeros((3, 7, 13), np.float32)
    image[:, :, 8:] = 1.0
    foreground = np.full((7, 13), 0.5, np.float32)
    foreground[3, 10], foreground[3, 1] = 0.95, 0.05
    shares = np.stack([1 - foreground, foreground])
    walked = Walker(0.9, 500.0).walk(image, shares)
    np.testing.assert_array_equal(walked[1] > 0.5, image[0] > 0)
    np.testing.assert_allclose(walked.sum(0), 1, atol=1e-3)
    assert Walker(0.99, 500.0).walk(image, shares) is shares  # nobody is that sure


def test_a_walker_treats_one_logit_like_two() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 7, 11, generator=generator)
    logit = 3 * torch.randn(1, 1, 7, 11, generator=generator)
    one = Walker(0.75, 130.0).logits(image, logit)
    two = Walker(0.75, 130.0).logits(image, torch.cat([torch.zeros_like(logit), logit], 1))
    torch.testing.assert_close(one[0, 0], two[0, 1] - two[0, 0])
    assert ((one > 0) != (logit > 0)).any()
