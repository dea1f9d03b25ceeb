"""How many processors a live answer takes: as few as keep it quick."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext

QUICK_SECONDS = 0.15
"""An answer that takes no longer with one processor left free."""


class LivePace:
    """Leaves a processor to the window as long as live answers are quick without it.

    Threads that share their processors with a window being drawn wait for each other at every
    small step: on two processors an answer of 8 ms by one thread took over 100 ms by two. The
    first answer about something (encoder and attention run) and long ones take the machine.
    """

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._quick = True

    @contextmanager
    def answering(self, about: Hashable) -> Iterator[None]:
        """While one answer is made; ``about`` names what stays the same while a value moves."""
        from napari_attnseg.engine.device import spare_processor

        known = about == self._seen
        spared = known and self._quick
        began = time.perf_counter()
        with spare_processor() if spared else nullcontext():
            yield
        seconds = time.perf_counter() - began
        self._seen = about
        # with all processors half the time says that it would be quick without one of them
        self._quick = not known or seconds < QUICK_SECONDS / (1 if spared else 2)
