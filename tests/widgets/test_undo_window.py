"""Ctrl+Z in a real window with a real engine: strokes, threshold drags and runs in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_attnseg.viewer.journal import apply
from napari_attnseg.widgets.segment import SegmentWidget
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
WAIT_MS = 90_000


def press(viewer: Any, redo: bool = False) -> None:
    """Ctrl+Z or Ctrl+Shift+Z on the canvas."""
    keys = Qt.KeyboardModifier.ControlModifier
    keys = keys | Qt.KeyboardModifier.ShiftModifier if redo else keys
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_Z, keys)


def test_every_kind_of_step_goes_back_and_forth_exactly(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    viewer = make_napari_viewer()
    viewer.add_image(np.random.default_rng(1).random((5, 40, 48), np.float32), name="stack")
    dock, tune = SegmentWidget(viewer), TuneWidget(viewer)
    viewer.window.add_dock_widget(dock, area="right")
    viewer.window.add_dock_widget(tune, area="right")
    hub = dock.hub
    hub.set_model(str(tiny_checkpoint))
    answers: list[Any] = []
    hub.live.retuned.connect(lambda *answer: answers.append(answer))

    def idle() -> None:
        qtbot.waitUntil(lambda: not hub.live.state.busy and not hub.making, timeout=WAIT_MS)
        qtbot.wait(50)

    def drag(name: str, *values: float) -> None:
        for value in values:
            before = len(answers)
            tune.rows[name].moved.emit(name, value)
            qtbot.waitUntil(lambda n=before: len(answers) > n, timeout=WAIT_MS)
        tune.rows[name].released.emit(name, values[-1])
        idle()

    dock.run.click()
    idle()
    layer = hub.results.labels
    viewer.layers.selection.active = layer
    assert hub.results.provenance["tuning"]["cut"] == hub.tuning.cut
    seen = [(np.zeros_like(layer.data), hub.tuning), (layer.data.copy(), hub.tuning)]

    def remember() -> None:
        seen.append((layer.data.copy(), hub.tuning))
        assert (seen[-1][0] != seen[-2][0]).any(), "the step must show"

    median = float(np.median(hub.results.layer("probability").data))
    drag("cut", 0.9, median)
    remember()
    layer.selected_label, layer.brush_size = 4, 6
    layer.paint((2, 20, 20), 4)
    remember()
    drag("cut", 0.2, float(np.quantile(hub.results.layer("probability").data, 0.7)))
    remember()
    apply(hub.results, "everything that is 1 becomes 2", lambda old: np.where(old == 1, 2, old))
    remember()

    last = dict(hub.results.provenance)
    for data, tuning in seen[-2::-1]:
        press(viewer)
        told = hub.results.provenance
        assert not told or told["tuning"]["cut"] == tuning.cut, "the export tells no other values"
        np.testing.assert_array_equal(layer.data, data)
        assert hub.tuning == tuning
        assert tune.rows["cut"].value() == tuning.cut
    words = "Taken back: segmentation of 5 slices. Ctrl+Shift+Z brings it again."
    assert dock.work.status.text() == words
    assert not dock.errors.message
    for data, tuning in seen[1:]:
        press(viewer, redo=True)
        np.testing.assert_array_equal(layer.data, data)
        assert hub.tuning == tuning
    assert hub.results.provenance == last
    qtbot.wait(300)  # nothing that was under way comes after
    np.testing.assert_array_equal(layer.data, seen[-1][0])
    for _ in seen:
        press(viewer)
    assert not layer.data.any()
    dock.run.click()
    idle()
    assert layer.data.any(), "a run after going back shows every slice anew"
    hub.close()
