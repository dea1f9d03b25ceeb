"""A place to stop inside long calculations: they breathe, and whoever cancels is heard there.

Work that is cut into slices, tiles or batches stops between two of them. One slice of a large image
may take seconds, though; the layers of a network and the row blocks of an attention call
:func:`breathe`, which ends the work by an exception once it was interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_wanted: set[int] = set()
_now = threading.local()


class Interrupted(Exception):
    """The work is no longer wanted; nothing of the unfinished part is kept."""


def interrupt(number: int) -> None:
    """End work ``number`` at its next breath. May be called from any thread."""
    _wanted.add(number)


def breathe() -> None:
    """Raise :class:`Interrupted` if the work of this thread was interrupted."""
    number = getattr(_now, "number", None)
    if number is not None and number in _wanted:
        raise Interrupted


@contextmanager
def interruptible(number: int) -> Iterator[None]:
    """What happens inside, in this thread, is work ``number``."""
    before = getattr(_now, "number", None)
    _now.number = number
    try:
        yield
    finally:
        _now.number = before


def settled(number: int) -> None:
    """Work ``number`` has ended."""
    _wanted.discard(number)
