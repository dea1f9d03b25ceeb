"""Large files come in behind the window; the place above Run keeps its height."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import QEventLoop, QTimer

from napari_attnseg.control.message_base import Calm, Note
from napari_attnseg.control.messages import decode, encode
from napari_attnseg.widgets import _openings
from napari_attnseg.widgets.opening import get_reader
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
WAIT_MS = 20_000


def in_loop(call: Any) -> Any:
    """What ``call`` gives inside a running event loop, as a person's drop is handled."""
    loop, kept = QEventLoop(), []
    QTimer.singleShot(0, lambda: (kept.append(call()), loop.quit()))
    loop.exec()
    return kept[0]


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    monkeypatch.setattr(_openings, "PACKED_BYTES", 100)
    data = np.random.default_rng(3).integers(-900, 900, (13, 11, 7)).astype(np.int16)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag((-1.0, -1.0, 2.0, 1.0))), path)
    return path, data


@pytest.fixture
def dock(make_napari_viewer: Any, qtbot: Any) -> SegmentWidget:
    viewer = make_napari_viewer()
    made = SegmentWidget(viewer)
    viewer.window.add_dock_widget(made)
    made.choose.open.setFocus()
    yield made
    made.hub.close()


def test_a_large_file_comes_in_behind_the_window(
    dock: SegmentWidget, scan: tuple[Path, np.ndarray], qtbot: Any
) -> None:
    path, data = scan
    in_loop(lambda: dock.choose.open_path(str(path)))
    assert dock.work.status.text() == "Opening scan.nii.gz ..."
    assert not dock.hub.viewer.layers, "the window went on"
    qtbot.waitUntil(lambda: bool(dock.hub.viewer.layers), timeout=WAIT_MS)
    np.testing.assert_array_equal(dock.hub.viewer.layers[0].data, data.transpose(2, 1, 0))
    assert dock.hub.source is dock.hub.viewer.layers[0]
    assert not dock.work.status.text()


def test_a_dropped_one_too_and_a_script_gets_its_layers_at_once(
    dock: SegmentWidget, scan: tuple[Path, np.ndarray], qtbot: Any
) -> None:
    path, _ = scan
    read = get_reader(str(path))
    assert read is not None
    assert read(str(path))[0][1]["name"] == "scan"
    assert in_loop(lambda: read(str(path))) == [(None,)]
    qtbot.waitUntil(lambda: len(dock.hub.viewer.layers) == 1, timeout=WAIT_MS)


def test_a_damaged_one_is_a_sentence(
    dock: SegmentWidget, scan: tuple[Path, np.ndarray], qtbot: Any
) -> None:
    path, _ = scan
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-200]))
    in_loop(lambda: dock.choose.open_path(str(path)))
    qtbot.waitUntil(lambda: bool(dock.errors.message), timeout=WAIT_MS)
    assert "scan.nii.gz" in dock.errors.message
    assert not dock.work.status.text()
    assert not dock.hub.viewer.layers


def test_one_of_several_volumes_is_asked_for(
    dock: SegmentWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    monkeypatch.setattr(_openings, "PACKED_BYTES", 100)
    data = np.random.default_rng(4).integers(0, 90, (6, 5, 4, 3)).astype(np.int16)
    path = tmp_path / "many.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag((-1.0, -1.0, 2.0, 1.0))), path)
    answers = [2, None]
    opened = _openings.openings_for(dock.hub.viewer)
    opened.open(path, lambda *_: answers.pop(0))
    qtbot.waitUntil(lambda: not opened.waiting, timeout=WAIT_MS)
    assert dock.hub.viewer.layers[0].name == "many [2]"
    np.testing.assert_array_equal(dock.hub.viewer.layers[0].data, data[..., 2].transpose(2, 1, 0))
    opened.open(path, lambda *_: answers.pop(0))
    qtbot.waitUntil(lambda: not opened.waiting, timeout=WAIT_MS)
    assert len(dock.hub.viewer.layers) == 1, "nothing was wanted"


def test_what_is_no_problem_is_said_above_run_and_moves_nothing(dock: SegmentWidget) -> None:
    calm = decode(encode(Note(3, "7 slices were finished before", calm=True)))
    grave = decode(encode(Note(3, "fell back to the CPU")))
    before = dock.slot.sizeHint().height()
    dock.hub.live.note.emit(calm.words)
    assert isinstance(calm.words, Calm)
    assert dock.work.status.text() == "7 slices were finished before."
    assert not dock.errors.message
    assert max(before, dock.slot.minimumHeight()) == dock.slot.minimumHeight()
    dock.hub.live.note.emit(grave.words)
    assert dock.errors.message == "Fell back to the CPU"
