"""Calls from other threads run in Qt's main thread, in order."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from napari_attnseg.widgets._bridge import (
    ActivityProgress,
    Paced,
    connect_alive,
    time_left,
    to_main_thread,
)

pytestmark = pytest.mark.gui


def test_calls_from_a_thread_run_in_the_main_thread_in_order(qtbot: Any) -> None:
    ran: list[tuple[int, bool]] = []

    def work() -> None:
        for i in range(50):
            to_main_thread(
                lambda i=i: ran.append((i, threading.current_thread() is threading.main_thread()))
            )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: len(ran) == 50)
    assert ran == [(i, True) for i in range(50)]


def test_a_deleted_widget_is_left_alone(qtbot: Any) -> None:
    from psygnal import Signal
    from qtpy.QtWidgets import QLabel

    class Source:
        told = Signal(str)

    source, label = Source(), QLabel()
    connect_alive(label, source.told, label.setText)
    source.told.emit("hello")
    assert label.text() == "hello"
    label.deleteLater()
    qtbot.wait(20)
    source.told.emit("too late")  # must not raise
    assert len(source.told) == 0


@pytest.mark.parametrize(
    ("done", "total", "seconds", "words"),
    [
        (0, 10, 5.0, ""),
        (10, 10, 5.0, ""),
        (5, 10, 20.0, "about 20 s left"),
        (9, 10, 9.0, "about a second left"),
        (1, 100, 3.0, "about 5 min left"),
    ],
)
def test_time_left(done: int, total: int, seconds: float, words: str) -> None:
    assert time_left(done, total, seconds) == words


def test_progress_is_told_first_last_and_at_a_pace_between() -> None:
    paced = Paced(60.0)
    assert [done for done in range(1, 101) if paced.due(done, 100)] == [1, 100]
    assert Paced(0.0).due(50, 100)


def test_a_run_that_ends_while_its_bar_appears_leaves_no_bar(
    make_napari_viewer: Any, qtbot: Any
) -> None:
    """napari runs the event loop while a bar is made; the end of a short run falls into it."""
    from types import SimpleNamespace

    from napari.utils.progress import progress
    from psygnal import Signal
    from qtpy.QtWidgets import QApplication

    class Live:
        started, slice_done, finished = Signal(object), Signal(object), Signal(object)
        failed, engine_lost = Signal(object), Signal(str)
        state = SimpleNamespace(busy=True)

        def cancel(self) -> None: ...

    make_napari_viewer()
    live = Live()
    activity = ActivityProgress(live)
    make = activity._new_bar

    def slow(total: int) -> Any:
        bar = make(total)
        live.state.busy = False
        live.finished.emit(None)
        QApplication.processEvents()
        return bar

    activity._new_bar = slow
    before = set(progress._all_instances)
    live.started.emit(SimpleNamespace(total=3, ready=0))
    qtbot.waitUntil(lambda: not activity._posted)
    assert activity._bar is None
    assert set(progress._all_instances) <= before
