"""A bake-off told in events: the figures are those of the files, it stops, and it goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from napari_attnseg.attention.base import AttentionModule, register_attention
from napari_attnseg.attention.registry import _REGISTRY
from napari_attnseg.control.bakeoff import (
    BakeOff,
    BakeOffPictures,
    BakeOffPicturesDone,
    BakeOffPlanned,
    BakeOffRow,
    BakeOffStep,
)
from napari_attnseg.control.bakeoff_runner import BakeOffController, finished_runs, keys_of
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.messages import Failed, Finished, Started, decode, encode
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.engine.bakeoff import planned
from napari_attnseg.engine.experiment.run import run_plan
from napari_attnseg.errors import EngineError


def write_data(folder: Path) -> Path:
    """Six grey images of 35 x 41 with a bright rectangle, and its mask."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for n in range(6):
        mask = np.zeros((35, 41), np.uint8)
        mask[5 : 20 + n, 6:22] = 255
        pixels = rng.integers(0, 90, (35, 41)) + (mask > 0) * 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{n}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{n}.png")
    return folder


@pytest.fixture
def wish(tmp_path: Path) -> BakeOff:
    out = str(tmp_path / "out")
    small: dict[str, Any] = {"size": 32, "epochs": 1, "width": 0.1, "levels": 2, "device": "cpu"}
    return BakeOff(1, str(write_data(tmp_path / "data")), ("skip=joint",), out, seeds=(0,), **small)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[BakeOffController]:
    client, scratch = InProcessClient(), Scratch()
    yield BakeOffController(client, scratch)
    client.close()
    scratch.close()


def heard(work: BakeOffController) -> list[Any]:
    told: list[Any] = []
    for name in ("started", "planned", "row", "step", "finished", "failed"):
        getattr(work, name).connect(told.append)
    work.pictures.connect(lambda event, found: told.append((event, found)))
    return told


def of(told: list[Any], kind: type) -> list[Any]:
    return [event for event in told if isinstance(event, kind)]


def test_figures_are_those_of_the_files_and_another_seed_only_adds(
    work: BakeOffController, wish: BakeOff, tmp_path: Path
) -> None:
    told = heard(work)
    work.start(wish)
    (planned,) = of(told, BakeOffPlanned)
    assert planned.keys == keys_of(wish.contestants) == ("plain", "skip_joint")
    assert of(told, Started)[0].total == 2
    last = {row.key: row for row in of(told, BakeOffRow)}
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    for key, run, line in zip(
        planned.keys, report["runs"], report["tables"][0]["rows"], strict=True
    ):
        row = last[key]
        assert row.dice == pytest.approx(run["metrics"]["dice"])
        assert row.iou == pytest.approx(run["metrics"]["iou"])
        assert row.seconds == pytest.approx(run["train_seconds"])
        assert (row.seeds, row.dice_sd) == ((0,), None)
        assert row.parameters == run["parameters"] == line["cost"]["run"]["parameters"]
        assert row.macs == line["cost"]["run"]["macs"]
        assert Path(row.model).is_file()
    (end,) = of(told, Finished)
    assert end.reason == "done"
    assert {Path(p).name for p in end.outputs.values()} >= {"compare.csv", "compare.md"}
    assert end.summary["said"] == tuple(report["tables"][0]["said"])
    epochs = [(s.key, s.epoch, s.epochs) for s in of(told, BakeOffStep) if s.what == "training"]
    assert ("skip_joint", 1, 1) in epochs
    assert {s.what for s in of(told, BakeOffStep)} == {"training", "done", "pictures"}

    before = Path(last["plain"].model).stat().st_mtime_ns
    told.clear()
    work.start(replace(wish, seeds=(0, 1)))
    assert Path(last["plain"].model).stat().st_mtime_ns == before  # kept, not trained again
    row = {r.key: r for r in of(told, BakeOffRow)}["plain"]
    runs = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"]
    plain = np.array([r["metrics"]["dice"] for r in runs if r["row"] == "plain U-Net"])
    assert row.seeds == (0, 1)
    assert row.dice == pytest.approx(plain.mean())
    assert row.dice_sd == pytest.approx(plain.std(ddof=1))

    told.clear()
    work.ask_pictures(replace(wish, seeds=(0, 1)), 0)
    ((answer, found),) = told
    assert isinstance(answer, BakeOffPicturesDone)
    assert (answer.index, answer.count) == (0, 1)
    assert np.load(found["image"]["file"]).shape == (35, 41)
    truth = np.load(found["truth"])
    assert truth[6, 7] == 1
    assert truth[0, 0] == 0
    plain_cell, joint_cell = found["cells"]
    assert "map" not in plain_cell
    assert np.load(joint_cell["map"]).ndim == 2
    for cell in found["cells"]:
        said = np.load(cell["mask"]) > 0
        expected = 2 * (said & (truth > 0)).sum() / (said.sum() + (truth > 0).sum())
        assert cell["dice"] == pytest.approx(expected)


def test_stopped_it_keeps_what_is_done_and_goes_on(
    work: BakeOffController, wish: BakeOff, tmp_path: Path
) -> None:
    told = heard(work)

    def stop_at_the_second(event: BakeOffStep) -> None:
        if event.key == "skip_joint" and not event.epoch:
            work.stop()

    work.step.connect(stop_at_the_second)
    work.start(wish)
    assert of(told, Finished)[0].reason == "cancelled"
    assert not work.busy
    keys = keys_of(wish.contestants)
    assert finished_runs(tmp_path / "out", keys, (0,)) == 1
    assert (tmp_path / "out" / "compare.md").is_file()
    work.step.disconnect(stop_at_the_second)
    told.clear()
    work.start(wish)
    assert of(told, Finished)[0].reason == "done"
    assert finished_runs(tmp_path / "out", keys, (0,)) == 2
    trained = {s.key for s in of(told, BakeOffStep) if s.what == "training" and not s.epoch}
    assert trained == {"skip_joint"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"contestants": ()}, "no attention to compare"),
        ({"contestants": ("bottleneck=attention_gate",)}, "at bottleneck"),
        ({"data": "/nowhere/at/all"}, "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    work: BakeOffController, wish: BakeOff, changes: dict[str, Any], told: str
) -> None:
    events = heard(work)
    work.start(replace(wish, **changes))
    (failed,) = events
    assert isinstance(failed, Failed)
    assert told in failed.message
    assert not work.busy


def test_pictures_of_nothing_say_what_to_do(work: BakeOffController, wish: BakeOff) -> None:
    events = heard(work)
    work.ask_pictures(wish, 0)
    assert "press Run first" in events[0].message
    assert not work.asking


def test_requests_and_events_survive_the_wire() -> None:
    asked = BakeOffPictures(3, "data", ("skip=cbam", "se"), "out", seeds=(0, 4), index=2, files="f")
    assert decode(encode(asked)) == asked
    row = BakeOffRow(3, "skip_cbam", (0, 4), 0.5, None, said=("One.", "Two."))
    assert decode(encode(row)) == row


class Broken(AttentionModule):
    """Learns to give no number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight * (float("nan") if self.training else 1.0)


@pytest.fixture
def broken() -> Iterator[str]:
    register_attention("t_broken", kinds=())(Broken)
    yield "skip[0]=t_broken"
    del _REGISTRY["t_broken"]


def test_one_that_fails_is_a_row_with_its_reason_and_the_others_go_on(
    work: BakeOffController, wish: BakeOff, tmp_path: Path, broken: str
) -> None:
    told = heard(work)
    wish = replace(wish, contestants=(broken, *wish.contestants))
    work.start(wish)
    assert not of(told, Failed)
    (end,) = of(told, Finished)
    assert end.reason == "done"
    key = keys_of(wish.contestants)[1]
    last = {row.key: row for row in of(told, BakeOffRow)}
    assert "loss of nan" in last[key].error
    assert last[key].seeds == ()
    assert all(row.error == "" and row.seeds == (0,) for k, row in last.items() if k != key)
    assert [s.key for s in of(told, BakeOffStep) if s.what == "failed"] == [key]
    assert any("Failed: " in said and "loss of nan" in said for said in end.summary["said"])
    out = tmp_path / "out"
    assert "loss of nan" in (out / "compare.md").read_text()
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert {r["key"]: bool(r["error"]) for r in rows} == {k: k == key for k in last}
    assert [r["dice"] for r in rows if r["key"] == key] == [""]
    assert finished_runs(out, keys_of(wish.contestants), (0,)) == 2  # it is tried again next time


def test_when_all_fail_it_is_said_as_a_failure(tmp_path: Path, broken: str, wish: BakeOff) -> None:
    plan, layout, _ = planned(replace(wish, contestants=(broken,)))
    plan = replace(plan, rows=plan.rows[1:])
    with pytest.raises(EngineError, match="loss of nan"):
        list(run_plan(plan, layout, tmp_path / "alone"))


def test_how_long_it_takes_is_guessed_before_the_first_epoch(
    work: BakeOffController, wish: BakeOff
) -> None:
    told = heard(work)
    work.start(replace(wish, epochs=3))
    first, *_, last = [s for s in of(told, BakeOffStep) if s.what == "training"]
    assert first.epoch == 0
    assert 0 < first.seconds_left < 600
    assert last.seconds_left <= first.seconds_left + 5
