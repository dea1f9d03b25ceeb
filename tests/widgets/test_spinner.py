"""napari's activity spinner stands still for our bars and turns for everybody else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from psygnal import Signal
from qtpy.QtGui import QMovie
from qtpy.QtWidgets import QLabel, QStatusBar

from napari_attnseg.widgets._bridge import ActivityProgress
from napari_attnseg.widgets._spinner import StillSpinner, turning

pytestmark = pytest.mark.gui


class Live:
    """As much of a live controller as the bar listens to."""

    started, slice_done, finished = Signal(object), Signal(object), Signal(object)
    failed, engine_lost = Signal(object), Signal(str)

    def __init__(self) -> None:
        self.state = SimpleNamespace(busy=True)

    def cancel(self) -> None: ...


def movie_of(viewer: Any) -> QMovie:
    bar = viewer.window._qt_window.findChild(QStatusBar)
    return next(m for label in bar.findChildren(QLabel) if (m := label.movie()) is not None)


def test_our_bar_is_there_and_nothing_turns(make_napari_viewer: Any, qtbot: Any) -> None:
    from napari.utils.progress import progress

    movie = movie_of(make_napari_viewer())
    live = Live()
    activity = ActivityProgress(live)
    live.started.emit(SimpleNamespace(total=3, ready=0))
    qtbot.waitUntil(lambda: activity._bar is not None)
    assert activity._bar in progress._all_instances
    assert movie.state() == QMovie.MovieState.Paused
    assert movie not in turning()
    live.state.busy = False
    live.finished.emit(None)
    qtbot.waitUntil(lambda: activity._bar is None)
    qtbot.waitUntil(lambda: movie.state() == QMovie.MovieState.NotRunning)


def test_it_turns_on_for_the_work_of_others(make_napari_viewer: Any) -> None:
    from napari.utils import progress

    movie = movie_of(make_napari_viewer())
    other = progress(total=5, desc="something else")
    assert movie in turning()
    spinner = StillSpinner()
    spinner.hold()
    assert movie.state() == QMovie.MovieState.Paused
    spinner.release()
    assert movie.state() == QMovie.MovieState.Running
    spinner.hold()
    other.close()
    movie.stop()  # as napari does when its last bar has gone
    spinner.release()
    assert movie.state() == QMovie.MovieState.NotRunning
