"""A session saved from a real window, dropped on another one: everything is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_attnseg.io.journal_folder import left_behind
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.strokes import new_strokes
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
WAIT_MS = 90_000


@pytest.fixture
def window(
    make_napari_viewer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], SegmentWidget]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    made = []

    def make() -> SegmentWidget:
        viewer = make_napari_viewer()
        _, dock = viewer.window.add_plugin_dock_widget("napari-attnseg", "Segment")
        made.append(dock)
        return dock

    yield make
    for dock in made:
        dock.hub.close()


def save(dock: SegmentWidget, path: Path, qtbot: Any) -> None:
    dock.errors.clear()
    dock.session.save_to(str(path))
    qtbot.waitUntil(lambda: dock.work.status.text().startswith("Saved"), timeout=WAIT_MS)
    assert dock.work.status.text() == f"Saved {path.name}."
    assert not dock.errors.message


@pytest.fixture
def worked(
    window: Callable[[], SegmentWidget], tiny_checkpoint: Path, tmp_path: Path, qtbot: Any
) -> dict[str, Any]:
    """What the first window showed, its session saved to ``work/day.attnseg``."""
    (tmp_path / "work" / "data").mkdir(parents=True)
    turn = np.array([[0.98, -0.17, 0, 3], [0.17, 0.98, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    pixels = np.random.default_rng(1).normal(0, 200, (44, 40, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(pixels, turn), tmp_path / "work" / "data" / "scan.nii.gz")
    dock = window()
    hub = dock.hub
    dock.choose.open_path(str(tmp_path / "work" / "data" / "scan.nii.gz"))
    memory = hub.viewer.add_image(np.random.default_rng(2).random((9, 13)), name="made here")
    strokes = new_strokes(hub.viewer, memory, ("background", "cell"))
    strokes.data[2:4, 3:9] = 2
    hub.set_model(str(tiny_checkpoint))
    dock.run.click()
    qtbot.waitUntil(lambda: not hub.live.state.busy and not hub.making, timeout=WAIT_MS)
    got: list[Any] = []
    hub.live.retuned.connect(lambda *answer: got.append(answer))
    hub.viewer.dims.set_point(0, hub.source.data_to_world((2, 0, 0))[0])
    hub.tune(threshold=0.03, cut=0.45)
    qtbot.waitUntil(lambda: bool(got), timeout=WAIT_MS)
    hub.live.release()
    qtbot.waitUntil(lambda: not hub.live.state.busy and not hub.making, timeout=WAIT_MS)
    edits = hub.results.edits
    edits.layer.selected_label = 3
    edits.layer.paint((2, 10, 12), 3)
    edits.layer.paint((2, 20, 30), 0)
    save(dock, tmp_path / "work" / "day.attnseg", qtbot)
    return {
        "labels": np.array(edits.data),
        "held": np.stack([edits.mask(z) for z in range(7)]),
        "tuning": hub.tuning,
        "affine": turn,
        "strokes": np.array(strokes.data),
        "pixels": np.array(memory.data),
        "names": [x.name for x in hub.viewer.layers if x._type_string == "labels"],
        "dock": dock,
    }


def drop(viewer: Any, path: Path) -> None:
    """As the mouse drops a file on the canvas."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    free, left = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    event = QDropEvent(QPointF(40, 40), Qt.DropAction.CopyAction, mime, left, free)
    viewer.window._qt_viewer.dropEvent(event)


def check(worked: dict[str, Any], viewer: Any, qtbot: Any) -> None:
    hub = hub_for(viewer)
    qtbot.waitUntil(lambda: hub.results is not None and hub.results.edits is not None)
    edits = hub.results.edits
    np.testing.assert_array_equal(edits.data, worked["labels"])
    np.testing.assert_array_equal(np.stack([edits.mask(z) for z in range(7)]), worked["held"])
    assert hub.tuning == worked["tuning"]
    assert hub.visible_z() == 2
    assert hub.source.name == "scan"
    volume = hub.source.metadata["attnseg"]["volume"]
    np.testing.assert_allclose(volume.geometry.affine, worked["affine"], atol=1e-6)
    np.testing.assert_array_equal(viewer.layers["made here"].data, worked["pixels"])
    np.testing.assert_array_equal(viewer.layers["made here_strokes"].data, worked["strokes"])
    names = [x.name for x in viewer.layers if x._type_string == "labels"]
    assert sorted(names) == sorted(worked["names"])


def test_dropped_on_another_window_it_goes_on(
    worked: dict[str, Any], window: Callable[[], SegmentWidget], tmp_path: Path, qtbot: Any
) -> None:
    worked["dock"].hub.close()
    assert not left_behind(closed=True), "the session file holds it: nothing is unsaved"
    moved = shutil.move(tmp_path / "work", tmp_path / "elsewhere")  # with the data beside it
    dock = window()
    drop(dock.hub.viewer, Path(moved) / "day.attnseg")
    check(worked, dock.hub.viewer, qtbot)
    assert not dock.session.where.isVisibleTo(dock)
    dock.run.click()
    qtbot.waitUntil(lambda: not dock.hub.live.state.busy and not dock.hub.making, timeout=WAIT_MS)
    np.testing.assert_array_equal(dock.hub.results.edits.data, worked["labels"])


def test_an_image_that_is_gone_is_asked_for(
    worked: dict[str, Any], window: Callable[[], SegmentWidget], tmp_path: Path, qtbot: Any
) -> None:
    worked["dock"].hub.close()
    place = tmp_path / "archive.nii.gz"
    shutil.move(tmp_path / "work" / "data" / "scan.nii.gz", place)
    dock = window()
    dock.session.open_path(str(tmp_path / "work" / "day.attnseg"))
    assert dock.session.where.isVisibleTo(dock)
    assert "scan is not where it was" in dock.session.words.text()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "other.nii.gz")
    dock.session.take_from("scan", tmp_path / "other.nii.gz")
    assert "was (7, 40, 44)" in dock.session.words.text()
    dock.session.take_from("scan", place)
    assert not dock.session.where.isVisibleTo(dock)
    check(worked, dock.hub.viewer, qtbot)
