"""A real window is killed with SIGKILL after work by mouse; the next one brings all of it back."""

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

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.io.journal_folder import Left, journals_root, left_behind
from napari_attnseg.viewer.journal_planes import Planes
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 240


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "journals"


def scan(tmp_path: Path) -> str:
    pixels = np.random.default_rng(1).normal(0, 200, (56, 48, 9)).astype(np.int16)
    nib.save(nib.Nifti1Image(pixels, np.diag([1.5, -1.5, 2, 1])), tmp_path / "scan.nii.gz")
    return str(tmp_path / "scan.nii.gz")


def start(plan: dict[str, Any], tmp_path: Path) -> subprocess.Popen[bytes]:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(HERE / "window_to_kill.py"), str(tmp_path / "plan.json")]
    with (tmp_path / "log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


@pytest.fixture
def killed(tmp_path: Path, journals: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    """The window's last view of its labels; its process is dead."""
    plan = {
        "scan": scan(tmp_path),
        "model": str(tiny_checkpoint),
        "z": 4,
        "thresholds": [0.3, 0.05, 0.02],
        "strokes": [[(10, 10), (14, 22), (20, 30)], [(30, 12), (32, 40)]],
        "erased": [(12, 18), (12, 24)],
        "out": str(tmp_path / "seen.npz"),
    }
    process = start(plan, tmp_path)
    end = time.monotonic() + PATIENCE_SECONDS
    while not Path(plan["out"]).exists():
        assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
        assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
        assert not left_behind(), "a living window's journal is nobody else's"
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    with np.load(plan["out"], allow_pickle=False) as data:
        return {name: data[name] for name in data.files} | {"plan": plan}


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any], journals: Path, qtbot: Any
) -> Iterator[Callable[[], SegmentWidget]]:
    made: list[SegmentWidget] = []

    def make() -> SegmentWidget:
        viewer = make_napari_viewer()
        widget = SegmentWidget(viewer)
        viewer.window.add_dock_widget(widget, area="right")
        made.append(widget)
        return widget

    yield make
    for widget in made:
        widget.hub.close()


def test_after_a_kill_the_next_window_brings_everything_back(
    killed: dict[str, Any], dock: Callable[[], SegmentWidget], qtbot: Any
) -> None:
    window = dock()
    qtbot.waitUntil(window.restore.bring.isEnabled, timeout=5000)
    qtbot.waitUntil(lambda: bool(window.restore.found), timeout=5000)
    assert "scan by tiny: 3 steps by hand" in window.restore.words.text()
    window.restore.bring.click()
    assert window.errors.message.startswith("Brought back"), window.errors.message
    assert window.restore.isHidden()
    hub = window.hub
    edits = hub.results.edits
    np.testing.assert_array_equal(edits.data, killed["labels"])
    assert killed["held"].sum() > 30
    held = np.stack([edits.mask(z) for z in range(edits.shape[0])])
    np.testing.assert_array_equal(held, killed["held"])
    assert hub.tuning.to_json() == json.loads(str(killed["tuning"]))
    assert hub.tuning.get("threshold") == 0.02
    assert hub.visible_z() == 4
    assert hub.checkpoint == killed["plan"]["model"]
    assert len(list(journals_root().glob("open-*/*.journal"))) == 1, "only the new window's own"
    for z in range(edits.shape[0]):  # what was painted is still protected
        edits.write(z, np.full(edits.shape[1:], 1, np.uint8))
    assert (edits.data[killed["held"]] == killed["labels"][killed["held"]]).all()
    assert (edits.data[~killed["held"]] == 1).all()
    hub.close()
    assert not left_behind()
    assert len(left_behind(closed=True)) == 1, "closed in order: kept aside, not asked about"


def labels_of(left: Left) -> np.ndarray:
    planes = Planes(tuple(left.facts["shape"]), np.zeros(left.facts["shape"], np.uint8))
    for page, data in left.state.pages.items():
        planes.put_packed(page, data)
    return np.stack([planes.shown(z) for z in range(planes.shape[0])])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_a_random_moment_of_painting_every_stroke_that_had_ended_is_there(
    seed: int, tmp_path: Path, journals: Path, tiny_checkpoint: Path
) -> None:
    """Oracle: the states that the window itself told of before it was killed."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(4, 40, (12, 2, 2))
    plan = {
        "scan": scan(tmp_path),
        "model": str(tiny_checkpoint),
        "z": 4,
        "thresholds": [0.05],
        "strokes": [[(int(y), int(x)) for y, x in pair] for pair in ends],
        "erased": [(12, 18), (12, 24)],
        "out": str(tmp_path / "seen.npz"),
        "log": str(tmp_path / "states"),
    }
    (tmp_path / "states").mkdir()
    process, end = start(plan, tmp_path), time.monotonic() + PATIENCE_SECONDS
    least = int(rng.integers(2, 12))
    while not (tmp_path / "states" / f"{least:02}.npy").exists():
        assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
        assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
        time.sleep(0.01)
    time.sleep(float(rng.random()) * 0.3)
    process.kill()
    process.wait(10)
    states = [np.load(path) for path in sorted((tmp_path / "states").glob("[0-9]*.npy"))]
    (left,) = left_behind()
    restored, last = labels_of(left), states[-1]
    more = restored != last
    assert (last != states[0]).any()
    assert np.isin(restored[more], (0, 2)).all(), "at most the stroke after the last one"
    assert not (last[more] == 2).any() or len(states) >= len(ends), (
        "nothing that was painted is lost"
    )
