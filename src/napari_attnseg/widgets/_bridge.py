"""Between the engine's threads and Qt's main thread, and napari's activity dock."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from psygnal import Signal as Told
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject, Qt, Signal, Slot
from qtpy.QtWidgets import QApplication

from napari_attnseg.widgets._spinner import StillSpinner
from napari_attnseg.widgets._turns import in_turns

if TYPE_CHECKING:
    from napari_attnseg.control.live import LiveController

PULSE_SECONDS = 3.0
LEAST_SECONDS = 0.002
"""A slice that took less was finished before."""


class _Courier(QObject):
    """Lives in the main thread; a call posted from any thread runs there, in order."""

    posted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        application = QCoreApplication.instance()
        if application is not None:
            self.moveToThread(application.thread())
        self.posted.connect(self._run, Qt.ConnectionType.QueuedConnection)

    @Slot(object)  # a real slot follows the object into its thread; a plain method would not
    def _run(self, call: Callable[[], None]) -> None:
        call()


_courier: _Courier | None = None
_lock = threading.Lock()


def to_main_thread(call: Callable[[], None]) -> None:
    """Run ``call`` in Qt's main thread soon; without an application, run it here."""
    global _courier
    application = QCoreApplication.instance()
    if application is None:
        call()
        return
    with _lock:
        if _courier is None or not isalive(_courier):
            _courier = _Courier()
        courier = _courier
    courier.posted.emit(call)


@contextlib.contextmanager
def busy_pointer() -> Iterator[None]:
    """The mouse pointer of a program that is at work, where there is an application."""
    application = QCoreApplication.instance()
    if not isinstance(application, QApplication):
        yield
        return
    application.setOverrideCursor(Qt.CursorShape.WaitCursor)
    try:
        yield
    finally:
        application.restoreOverrideCursor()


def when_window_goes(viewer: Any, close: Callable[[], None]) -> None:
    """Call ``close`` when the viewer's window is destroyed or the application ends."""
    application = QCoreApplication.instance()
    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    if window is not None:
        window.destroyed.connect(lambda *_: close())
    if application is not None:
        application.aboutToQuit.connect(close)


def connect_alive(widget: QObject, signal: Any, slot: Callable[..., Any]) -> None:
    """Connect a psygnal ``signal`` for as long as ``widget`` exists on the Qt side."""

    def guarded(*values: Any) -> None:
        if isalive(widget):
            slot(*values)
        else:
            signal.disconnect(guarded, missing_ok=True)

    signal.connect(guarded, max_args=_arity(signal))
    widget.destroyed.connect(lambda *_: signal.disconnect(guarded, missing_ok=True))


def _arity(signal: Any) -> int:
    return len(signal.signature.parameters)


def time_left(done: int, total: int, seconds: float) -> str:
    """``"about 40 s left"``, or nothing before it can be known."""
    if not done or done >= total:
        return ""
    left = seconds / done * (total - done)
    if left < 1.5:
        return "about a second left"
    return f"about {left:.0f} s left" if left < 90 else f"about {left / 60:.0f} min left"


class Paced:
    """Says when a word on progress is due: the first, the last, and one a second between.

    Every change of a widget makes Qt compose the window anew (tens of milliseconds without a
    graphics card), and slices can finish a hundred times a second.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._last = 0.0

    def due(self, done: int, total: int) -> bool:
        """Whether ``done`` of ``total`` should be shown now."""
        now = time.monotonic()
        if 1 < done < total and now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Pulse:
    """When the docks change their words on a run: all in one turn, so that one frame shows it.

    ``ready``: slices that were finished before the present run; ``done``: those that are by now,
    whether the run has come by them or not.

    Passes on the ``slice_done`` of the first slice, of the last, and one in a while between; the
    slice is in the layers by then. With an OpenGL canvas every frame composes the whole window,
    whoever asked for it: two docks, the class sizes and napari's activity dock, each at a pace of
    its own, held the mouse up four times as often.
    """

    beat = Told(object)  # SliceDone

    def __init__(self, live: LiveController, seconds: float = PULSE_SECONDS) -> None:
        self._paced = Paced(seconds)
        self._began, self._computed = time.monotonic(), 0
        self.ready = self.done = 0
        live.started.connect(self._on_started)
        live.slice_done.connect(self._on_slice)

    def left(self, event: Any) -> str:
        """Words on the time that is left after ``event``: slices that were finished before a run
        say nothing of its pace."""
        each = (time.monotonic() - self._began) / max(self._computed, 1)
        done = self.done if self._computed else 0
        return time_left(done, event.total, each * done)

    def _on_started(self, event: Any) -> None:
        self._began, self._computed = time.monotonic(), 0
        self.ready = self.done = event.ready

    def _on_slice(self, event: Any) -> None:
        self._computed += event.seconds >= LEAST_SECONDS
        self.done = max(event.done, min(self.ready + self._computed, event.total - 1))
        if self._paced.due(event.done, event.total):
            self.beat.emit(event)


_pulses: weakref.WeakKeyDictionary[Any, Pulse] = weakref.WeakKeyDictionary()


def pulse_for(live: LiveController) -> Pulse:
    """The one of ``live``; whoever tells of its runs asks for it."""
    if live not in _pulses:
        _pulses[live] = Pulse(live)
    return _pulses[live]


class ActivityProgress:
    """Shows the runs of one live controller in napari's activity dock, with its own Cancel.

    napari's progress bars run the event loop when they are moved, so they are moved in a turn of
    their own: answers that come meanwhile must not overtake the one that is being told.
    """

    def __init__(self, live: LiveController) -> None:
        self._live = live
        self._bar: Any = None
        self._state: tuple[int, int] | None = None
        self._left = ""
        self._posted = False
        self._spinner = StillSpinner()
        live.started.connect(self._start)
        pulse_for(live).beat.connect(self._step)
        live.finished.connect(self._end)
        live.failed.connect(self._end)
        live.engine_lost.connect(self._end)

    def _start(self, event: Any) -> None:
        self._left = ""
        self._post((event.ready, event.total))

    def _step(self, event: Any) -> None:
        pulse = pulse_for(self._live)
        self._left = pulse.left(event)
        self._post((pulse.done, event.total))

    def _end(self, event: Any = None) -> None:
        if not self._live.state.busy:  # else a small question failed and the run goes on
            self._post(None)

    def _post(self, state: tuple[int, int] | None) -> None:
        self._state = state
        if not self._posted:
            self._posted = True
            in_turns(self._show)

    def _show(self) -> None:
        """Bring the bar to the newest state."""
        self._posted = False
        bar, state = self._bar, self._state
        if bar is not None and (state is None or bar.total != state[1] or state[0] < bar.n):
            self._bar = None  # over, or the next run has begun already
            bar.close()
            self._spinner.release()
        if state is None:
            return
        done, total = state
        bar = self._bar = self._bar or self._new_bar(total)
        bar.set_description(f"Segmenting, {self._left}" if self._left else "Segmenting")
        if done > bar.n:
            bar.update(done - bar.n)

    def _new_bar(self, total: int) -> Any:
        from napari.utils import cancelable_progress

        bar = cancelable_progress(total=total, desc="Segmenting")
        bar.cancel = self._live.cancel  # napari's own waits for an iteration to end
        self._spinner.hold()
        return bar
