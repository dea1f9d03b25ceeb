"""A window with a refined mask is killed with SIGKILL; the next one goes on refining from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_attnseg.cli.restore import _labels
from napari_attnseg.io.journal_folder import left_behind
from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.samples import nuclei
from napari_attnseg.widgets.refine import RefineWidget
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 240
FLAT = np.asarray(nuclei()[0][0])[20:117, 30:143]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    tifffile.imwrite(tmp_path / "cells.tif", FLAT, photometric="minisblack")
    return {
        "scan": str(tmp_path / "cells.tif"),
        "model": "nuclei_cspn",
        "iterations": 4,
        "strokes": [[(20, 20), (24, 40)], [(60, 70), (70, 90)]],
        "painted": [(80, 20), (84, 40)],
        "out": str(tmp_path / "seen.npz"),
    }


def start(plan: dict[str, Any], tmp_path: Path, until: Path) -> subprocess.Popen[bytes]:
    """The window, once the file ``until`` is there."""
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(HERE / "refined_to_kill.py"), str(tmp_path / "plan.json")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    end = time.monotonic() + PATIENCE_SECONDS
    while not until.exists():
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.02)
    return process


@pytest.fixture
def killed(plan: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What the window showed last; its process is dead."""
    process = start(plan, tmp_path, Path(plan["out"]))
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    with np.load(plan["out"], allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any]) -> Iterator[Callable[[], Any]]:
    made: list[SegmentWidget] = []

    def make() -> tuple[SegmentWidget, RefineWidget]:
        viewer = make_napari_viewer()
        segment, refine = SegmentWidget(viewer), RefineWidget(viewer)
        for name, dock in (("Segment", segment), ("Refine", refine)):
            viewer.window.add_dock_widget(dock, area="right", name=name)
        made.append(segment)
        return segment, refine

    yield make
    for dock in made:
        dock.hub.close()


def test_a_refined_mask_and_its_strokes_come_back_and_it_goes_on(
    killed: dict[str, Any], window: Callable[[], Any], qtbot: Any
) -> None:
    assert killed["held"].any()
    assert (killed["strokes"] == 2).any()
    segment, refine = window()
    qtbot.waitUntil(lambda: bool(segment.restore.found), timeout=10_000)
    said = segment.restore.words.text()
    assert "cells refined by nuclei_cspn" in said
    assert "cells_strokes" in said
    segment.restore.bring.click()
    assert segment.errors.message.startswith("Brought back"), segment.errors.message
    work = refine.work
    assert work.hub is segment.hub
    edits = work.results.edits
    np.testing.assert_array_equal(edits.data, killed["refined"])
    held = np.stack([edits.mask(z) for z in range(edits.shape[0])])
    np.testing.assert_array_equal(held, killed["held"])
    assert work.watch.layer.name == "cells_strokes"
    np.testing.assert_array_equal(work.watch.layer.data, killed["strokes"])
    assert refine.strokes.layer.layer is work.watch.layer, "the dock shows it"
    values = work.control.state.iterations, work.control.state.strength
    assert list(values) == json.loads(str(killed["values"]))
    assert (refine.steps.row.value(), refine.strokes.strength.value()) == values
    assert not left_behind()
    refine.here.click() if refine.here.isVisible() else refine.run.click()
    qtbot.waitUntil(lambda: bool(work.fresh), timeout=PATIENCE_SECONDS * 1000)
    np.testing.assert_array_equal(edits.data, killed["refined"]), "the same question again"
    work.watch.layer.data_setitem((np.array([40, 41]), np.array([50, 50])), 1)
    qtbot.waitUntil(lambda: work.control.generation > 1, timeout=10_000)
    qtbot.waitUntil(lambda: bool(work.fresh) and not work.control.busy, timeout=60_000)
    assert segment.hub.keeper.kept(work.results)
    assert segment.hub.keeper.painted.kept(work.watch.layer)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_strokes_and_answers_come_every_stroke_is_there(
    seed: int, plan: dict[str, Any], tmp_path: Path
) -> None:
    """Oracle: the strokes that the window itself told of before it was killed."""
    rng = np.random.default_rng(seed)
    plan["strokes"] = rng.integers(5, 90, (14, 2, 2)).tolist()
    plan["log"] = str(tmp_path / "states")
    Path(plan["log"]).mkdir()
    least = int(rng.integers(1, 9))
    process = start(plan, tmp_path, Path(plan["log"]) / f"{least:02}.npy")
    time.sleep(float(rng.random()) * 0.4)
    process.kill()
    process.wait(10)
    last = np.load(sorted(Path(plan["log"]).glob("[0-9]*.npy"))[-1])
    found = {bool(left.facts.get("painted")): left for left in left_behind()}
    assert set(found) == {True, False}, "strokes and mask"
    restored = _labels(found[True])[0]
    assert (last == 2).sum() > 20
    assert (restored[last > 0] == last[last > 0]).all(), "nothing that was painted is lost"
    assert not found[False].state.facts.get("saved")
    assert _labels(found[False]).any()
