"""The choice of axes in the Segment dock: there for volumes alone, followed by the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attnseg.control.slicing import LATER
from napari_attnseg.viewer import preferences
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SegmentWidget]:
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = make_napari_viewer()
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, area="right")
    widget.hub.set_model(str(tiny_checkpoint))
    yield widget
    widget.hub.close()


def test_a_volume_by_all_axes(dock: SegmentWidget, qtbot: Any) -> None:
    rng = np.random.default_rng(0)
    axes = dock.choose.axes
    assert not axes.isVisibleTo(dock)
    flat = dock.hub.viewer.add_image(rng.normal(size=(33, 41)).astype(np.float32), name="flat")
    dock.hub.set_source(flat)
    assert not axes.isVisibleTo(dock)
    deep = dock.hub.viewer.add_image(rng.normal(size=(5, 33, 41)).astype(np.float32), name="deep")
    dock.hub.set_source(deep)
    assert axes.isVisibleTo(dock)
    assert not axes.later.isVisibleTo(dock)
    axes.combo.setFocus()
    for _ in range(3):
        qtbot.keyClick(axes.combo, Qt.Key.Key_Down)
    axes.combo.activated.emit(axes.combo.currentIndex())
    assert dock.hub.live.state.along == "all"
    assert axes.later.isVisibleTo(dock)
    said: list[str] = []
    dock.hub.live.stepped.connect(lambda event: said.append(dock.work.moving.text()))
    qtbot.mouseClick(dock.run, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.hub.live.state.busy and not dock.hub.making, timeout=90_000)
    qtbot.wait(50)
    assert any("of 79 on the way" in words for words in said)
    results = dock.hub.results
    assert results.provenance["axis"] == "all"
    labels, chance = results.labels.data, results.layer("probability").data
    np.testing.assert_array_equal(labels, chance >= 0.5)
    assert chance.min() > 0
    dock.hub.live.release()
    qtbot.waitUntil(lambda: LATER[1:] in dock.errors.message, timeout=5000)
