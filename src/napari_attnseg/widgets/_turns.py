"""Heavy calls of the window's thread, one a turn of its event loop, with room between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject, QTimer

BREATH_MS = 10
"""Between two calls: what the hand did meanwhile is answered, and a frame is drawn."""


class Turns(QObject):
    """A queue for calls of some ten milliseconds each.

    napari runs the event loop by itself while it makes a progress bar: calls that come due then
    wait until that turn is over, or all of them would be one long turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: deque[Callable[[], None]] = deque()
        self._running = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._next)

    def add(self, call: Callable[[], None]) -> None:
        """``call`` in a turn to come, after those that were added before."""
        self._calls.append(call)
        if not self._running and not self._timer.isActive():
            self._timer.start(0)

    def _next(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            self._calls.popleft()()
        finally:
            self._running = False
            if self._calls:
                self._timer.start(BREATH_MS)


_turns: Turns | None = None


def in_turns(call: Callable[[], None]) -> None:
    """Run ``call`` in a turn of its own soon; without an application, run it here.

    To be called in the window's thread.
    """
    global _turns
    if QCoreApplication.instance() is None:
        call()
        return
    if _turns is None or not isalive(_turns):
        _turns = Turns()
    _turns.add(call)
