"""How often a run makes Qt compose the window: few frames, whichever docks are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication, QProgressBar

from napari_attnseg.control.messages import SliceDone, Started
from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.results import ResultLayers
from napari_attnseg.widgets._bridge import Pulse, pulse_for
from napari_attnseg.widgets._moving import MovingFigure, move_bar
from napari_attnseg.widgets._parts import behind

pytestmark = pytest.mark.gui
DEPTH = 60


class Live:
    started = Signal(object)
    slice_done = Signal(object)


class Frames(QObject):
    """Counts what makes Qt compose a window anew."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        QApplication.instance().installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        self.count += event.type() == QEvent.Type.UpdateRequest
        return False


def test_a_pulse_passes_on_the_first_the_last_and_few_between() -> None:
    live = Live()
    pulse, heard = Pulse(live, seconds=60.0), []
    pulse.beat.connect(lambda event: heard.append(event.done))
    for done in range(1, 101):
        live.slice_done.emit(SliceDone(done=done, total=100))
    assert heard == [1, 100]
    assert pulse_for(live) is pulse_for(live)


def test_a_pulse_counts_what_an_earlier_run_has_finished() -> None:
    """Of 10 slices 6 are known; the run comes by two of them, then by new ones."""
    live = Live()
    pulse = Pulse(live)
    assert (pulse.ready, pulse.done) == (0, 0)
    live.started.emit(Started(total=10, ready=6))
    counts = [pulse.done]
    for done, seconds in enumerate((0.5, 0.0, 0.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0), start=1):
        live.slice_done.emit(SliceDone(done=done, total=10, seconds=seconds))
        counts.append(pulse.done)
    assert counts == [6, 7, 7, 7, 8, 9, 9, 9, 9, 9, 10]
    live.started.emit(Started(total=10))
    assert (pulse.ready, pulse.done) == (0, 0)


def test_a_figure_keeps_the_width_of_the_widest(qtbot: Any) -> None:
    figure = MovingFigure()
    qtbot.addWidget(figure)
    figure.setText("123,456 px")
    wide = figure.sizeHint().width()
    figure.setText("9 px")
    assert (figure.text(), figure.sizeHint().width()) == ("9 px", wide)
    figure.setText("1,234,567,890 px")
    assert figure.sizeHint().width() > wide


@pytest.fixture
def docks(
    make_napari_viewer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> Iterator[tuple[Any, Any]]:
    """Segment behind Tune, an image of 61 slices, layers for its results."""
    from napari_attnseg.widgets.segment import SegmentWidget
    from napari_attnseg.widgets.tune import TuneWidget

    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.zeros((DEPTH + 1, 32, 32), np.uint8), name="scan")
    viewer.dims.set_point(0, 0)
    segment, tune = SegmentWidget(viewer), TuneWidget(viewer)
    viewer.window.add_dock_widget(segment, name="Segment", tabify=True)
    viewer.window.add_dock_widget(tune, name="Tune", tabify=True).raise_()
    segment._warmed = True  # no engine: what it says is said by the test
    monkeypatch.setattr(pulse_for(segment.hub.live)._paced, "_seconds", 60.0)
    qtbot.waitUntil(lambda: behind(segment) and not behind(tune))
    yield segment, tune
    segment.hub.close()


def test_sixty_slices_that_nobody_looks_at_are_few_frames(
    docks: tuple[Any, Any], qtbot: Any
) -> None:
    segment, tune = docks
    hub = segment.hub
    layers = ResultLayers(hub.viewer, hub.source, "model", hub.card)
    hub._made.put(hub.checkpoint, layers)
    layers.ensure_labels()
    hub.results_changed.emit(layers)
    live = hub.live

    def came(z: int, done: int) -> None:
        layers.write_labels(z, np.full((32, 32), 1 + done % 2, np.uint8))
        live.slice_done.emit(SliceDone(z=z, done=done, total=DEPTH, seconds=0.1))
        QApplication.processEvents()

    came(1, 1)  # slice 0 is on screen: it would be asked for its curves
    qtbot.wait(600)  # the window comes to rest
    frames = Frames()
    for done in range(2, DEPTH):
        came(done, done)
    assert frames.count == 0, "nothing is to be shown yet"
    came(DEPTH, DEPTH)
    qtbot.wait(50)
    assert frames.count <= 3, "all words change in one turn"
    assert segment.after.legend.rows[1].size.text() == f"{DEPTH // 2 * 1024:,} px"
    assert f"Slice {DEPTH} of {DEPTH}" in tune.answer.work.moving.text()


def test_a_bar_behind_another_tab_composes_nothing(docks: tuple[Any, Any], qtbot: Any) -> None:
    segment, _ = docks
    qtbot.wait(300)
    bar: QProgressBar = segment.progress
    bar.setRange(0, 10)
    qtbot.wait(50)
    frames = Frames()
    move_bar(bar, 7)
    qtbot.wait(50)
    assert (bar.value(), frames.count) == (7, 0)
