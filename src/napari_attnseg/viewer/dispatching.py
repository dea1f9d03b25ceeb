"""How a hub reaches the thread of its window: by Qt, once a dock was imported; else at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Dispatch = Callable[[Callable[[], None]], None]
Watcher = Callable[[Any, Callable[[], None]], None]
_dispatch: Dispatch | None = None
_turns: Dispatch | None = None
_watcher: Watcher | None = None


def set_dispatcher(
    dispatch: Dispatch | None, watcher: Watcher | None = None, turns: Dispatch | None = None
) -> None:
    """How events reach the main thread, who calls a hub's ``close`` when its window goes, and
    what gives a heavy call of the main thread a turn of its own.

    Importing any dock sets Qt's ways.
    """
    global _dispatch, _turns, _watcher
    _dispatch, _turns, _watcher = dispatch, turns, watcher


def at_once(call: Callable[[], None]) -> None:
    """Run ``call`` here and now."""
    call()


def deliver(call: Callable[[], None]) -> None:
    """Run ``call`` in the main thread; asked at every event, so that a dock may come later."""
    (_dispatch or at_once)(call)


def in_turns(call: Callable[[], None]) -> None:
    """In the main thread: run ``call`` in a turn of its own."""
    (_turns or at_once)(call)


def has_turns() -> bool:
    """Whether there are turns to be had, or all is done at once."""
    return _turns is not None


def watch(viewer: Any, close: Callable[[], None]) -> None:
    """Call ``close`` when the window of ``viewer`` goes."""
    if _watcher is not None:
        _watcher(viewer, close)
