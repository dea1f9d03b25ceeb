"""Experiments run on tiny images: reports, going on after a stop or a kill, clear words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_attnseg.cli import app
from napari_attnseg.engine.experiment.plan import Plan, Scale
from napari_attnseg.engine.experiment.plans import make_plan
from napari_attnseg.engine.experiment.run import run_plan
from napari_attnseg.engine.experiment.suited import suited
from napari_attnseg.errors import InputError
from napari_attnseg.io.layout import Layout
from napari_attnseg.io.layouts import find_layout

SCALE = Scale(size=64, epochs=2, batch=4, width=0.125, changes={"lr": 1e-3, "gamma_start": 1.0})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten colour images of odd size with one bright square each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "squares"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for n in range(10):
        mask = np.zeros((67, 59), np.uint8)
        y, x = rng.integers(2, 30, 2)
        mask[y : y + 25, x : x + 25] = 255
        pixels = rng.integers(0, 90, (67, 59, 3)) + (mask[..., None] > 0) * [150, 120, 100]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{n}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{n}.png")
    return folder


def small_plan(*keys: str, **changes: object) -> Plan:
    """The smooth-attention plan with some rows only."""
    plan = make_plan("smooth-attention", replace(SCALE, **changes))  # type: ignore[arg-type]
    rows = tuple(row for row in plan.rows if row.key in keys)
    entries = tuple((row.label, row.key) for row in rows)
    return replace(plan, rows=rows, tables=(replace(plan.tables[0], entries=entries),))


def drain(plan: Plan, layout: Layout, out: Path, **given: object) -> list[str]:
    """Run to the end; what happened to every run."""
    steps = run_plan(plan, layout, out, device="cpu", **given)  # type: ignore[arg-type]
    return [s.what for s in steps if s is not None and s.what != "training"]


def figures(out: Path) -> dict[str, dict]:
    """Metrics and digest of every finished run."""
    found = {}
    for path in sorted((out / "runs").glob("*.json")):
        record = json.loads(path.read_text())
        found[path.stem] = {"metrics": record["metrics"], "digest": record["digest"]}
    return found


def test_an_experiment_writes_its_report(data: Path, tmp_path: Path) -> None:
    plan, out = small_plan("threshold_0.1", "no_attention", seeds=(0, 1)), tmp_path / "out"
    layout = find_layout(data)
    assert drain(plan, layout, out, command="napari-attnseg x") == ["done"] * 4
    report = json.loads((out / "smooth-attention.json").read_text())
    assert (report["done"], report["of"], report["missing"]) == (4, 4, [])
    assert report["versions"]["napari-attnseg"]
    assert report["devices"] == ["cpu"]
    assert report["data"]["split"] == layout.split
    row = report["tables"][0]["rows"][0]
    dices = [r["metrics"]["dice"] for r in report["runs"] if r["row"] == "0.1"]
    assert row["figures"]["dice"]["mean"] == pytest.approx(np.mean(dices))
    assert row["figures"]["dice"]["sd"] == pytest.approx(np.std(dices, ddof=1))
    text = (out / "smooth-attention.md").read_text()
    for words in ("squares", "last 20 %", "seeds 0, 1", "napari-attnseg x", "| 0.1 |", "torch"):
        assert words in text
    assert Image.open(out / "smooth-attention.png").size[0] > 900
    assert not list(out.glob("runs/*.safetensors"))
    assert drain(plan, layout, out) == ["kept"] * 4


def test_a_stopped_experiment_goes_on_to_the_same_numbers(data: Path, tmp_path: Path) -> None:
    layout, plan = find_layout(data), small_plan("threshold_0.1", "threshold_0.2")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    drain(plan, layout, whole)
    steps = run_plan(plan, layout, cut, device="cpu")
    for step in steps:  # into the second run's first batch
        if step is not None and step.number == 2 and step.event is not None:
            break
    next(steps)
    steps.close()
    assert list(figures(cut)) == ["threshold_0.1_seed0"]
    assert "0.2, seed 0" in (cut / "smooth-attention.md").read_text()
    assert list((cut / "runs").glob("threshold_0.2_seed0*state*"))
    asked = iter([False] * 3)  # and once more by the wish to stop
    assert drain(plan, layout, cut, should_stop=lambda: next(asked, True)) == ["kept"]
    assert drain(plan, layout, cut) == ["kept", "done"]
    assert figures(cut) == figures(whole)


def test_damaged_records_are_run_again_and_foreign_ones_refused(data: Path, tmp_path: Path) -> None:
    layout, plan, out = find_layout(data), small_plan("threshold_0.1"), tmp_path / "out"
    drain(plan, layout, out)
    record = out / "runs" / "threshold_0.1_seed0.json"
    before = figures(out)
    record.write_text(record.read_text()[:100])
    assert drain(plan, layout, out) == ["done"]
    assert figures(out) == before
    other = small_plan("threshold_0.1", epochs=3)
    with pytest.raises(InputError, match=r"other settings \(epochs 2, now 3\); give another --out"):
        drain(other, layout, out)
    with pytest.raises(InputError, match="other data"):
        drain(plan, layout.limited(5), out)
    assert figures(out) == before


def test_costs_stand_in_the_table(data: Path, tmp_path: Path) -> None:
    plan = small_plan("threshold_0.1")
    rows = tuple(replace(row, full=row.settings) for row in plan.rows)
    plan = replace(plan, rows=rows, tables=(replace(plan.tables[0], costs=True),))
    out = tmp_path / "out"
    assert drain(plan, find_layout(data), out) == ["done", "costs"]
    cost = json.loads((out / "costs" / "threshold_0.1.json").read_text())["run"]
    record = json.loads((out / "runs" / "threshold_0.1_seed0.json").read_text())
    assert cost["parameters"] == record["parameters"]
    assert cost["macs"] > 1e6
    assert cost["ms"] > 0
    assert f"{cost['parameters']:,}" in (out / "smooth-attention.md").read_text()
    assert drain(plan, find_layout(data), out) == ["kept"]


def test_preprocessing_suits_the_data(data: Path, tmp_path: Path) -> None:
    assert suited(find_layout(data)) == (None, "")
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for kind, values in (
            ("images", rng.normal(-300, 400, (9, 8, 5)).astype(np.int16)),
            ("masks", (rng.random((9, 8, 5)) > 0.5).astype(np.uint8)),
        ):
            (tmp_path / "ct" / part / kind).mkdir(parents=True)
            path = tmp_path / "ct" / part / kind / "a.nii.gz"
            nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    found, note = suited(find_layout(tmp_path / "ct"))
    assert found is not None
    assert (found.channels, found.intensity, found.low) == (1, "window", -160.0)
    assert "Hounsfield" in note


def command(name: str, data: Path, out: Path, *more: object) -> list[str]:
    given = ["experiment", name, "--data", data, "--out", out, "--size", 64, "--width", 0.125]
    return [str(a) for a in (*given, "--batch", 4, "--device", "cpu", *more)]


def test_command_says_what_is_wrong(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, words in (
        (command("smooth", data, out), "got experiment smooth, expected one of"),
        (command("pam-unet", data / "masks", out), "whose layout is unknown"),
        (command("pam-unet", data, out, "--seeds", "a"), "got --seeds a"),
        (command("smooth-attention", data, out, "--set", "speed=1"), "does not exist"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, InputError)
        assert words in str(done.exception)
    assert not list(out.glob("*.md"))


@pytest.mark.slow
def test_a_killed_process_loses_nothing(data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start = [sys.executable, "-m", "napari_attnseg"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    more = ("--epochs", 2)
    subprocess.run(
        [*start, *command("smooth-attention", data, whole, *more)], check=True, env=environment
    )
    process = subprocess.Popen(
        [*start, *command("smooth-attention", data, cut, *more)], env=environment
    )
    deadline = time.monotonic() + 240
    while len(list(cut.glob("runs/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in cut.glob("runs/*.json")}
    assert 3 <= len(done) < 11
    after = subprocess.run(
        [*start, *command("smooth-attention", data, cut, *more)],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert after.stderr.count("kept from before") == len(done)
    assert "11 of 11 runs done" in after.stdout
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert figures(cut) == figures(whole)
