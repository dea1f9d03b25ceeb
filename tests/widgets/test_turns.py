"""Heavy calls get a turn of the window each, also while napari runs the event loop itself."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_attnseg.widgets._turns import in_turns

pytestmark = pytest.mark.gui


def test_in_order_with_the_window_awake_between(qtbot: Any) -> None:
    told: list[Any] = []
    ticker = QTimer()
    ticker.timeout.connect(lambda: told.append("tick"))
    ticker.start(1)
    for i in range(4):
        in_turns(lambda i=i: told.append(i))
    assert told == []
    qtbot.waitUntil(lambda: 3 in told)
    ticker.stop()
    calls = [x for x in told if x != "tick"]
    assert calls == [0, 1, 2, 3]
    for i in range(3):
        assert "tick" in told[told.index(i) : told.index(i + 1)]


def test_a_call_that_runs_the_event_loop_stays_alone(qtbot: Any) -> None:
    told: list[str] = []

    def runs_the_loop() -> None:
        told.append("begins")
        in_turns(lambda: told.append("added"))
        for _ in range(50):
            QApplication.processEvents()
            qtbot.wait(1)
        told.append("ends")

    in_turns(runs_the_loop)
    in_turns(lambda: told.append("next"))
    qtbot.waitUntil(lambda: "added" in told)
    assert told == ["begins", "ends", "next", "added"]


def test_a_call_that_fails_does_not_stop_the_others(qtbot: Any) -> None:
    told: list[str] = []

    def fails() -> None:
        raise ValueError("this one")

    with qtbot.captureExceptions() as caught:
        in_turns(fails)
        in_turns(lambda: told.append("next"))
        qtbot.waitUntil(lambda: told == ["next"])
    assert [str(error[1]) for error in caught] == ["this one"]
