"""Whether the process that a folder was named after still lives."""

from __future__ import annotations

import contextlib
import os
from functools import cache

CLOCK_TICKS = 60_000
"""Hundredths of a second by which a living process may seem to have begun earlier or later than it
said: the system reckons with the clock of today, which may have been set since. Who is taken for
living keeps his files a little longer; who is taken for dead loses them."""


def begun(pid: int) -> int | None:
    """When process ``pid`` began, in hundredths of a second; ``None``: there is none."""
    return _own(pid) if pid == os.getpid() else _of(pid)


def lives(pid: int, start: int) -> bool:
    """Whether the process that was ``pid`` and had :func:`begun` at ``start`` still lives."""
    now = begun(pid)
    if now is None or pid == os.getpid():
        return now == start
    return abs(now - start) <= CLOCK_TICKS


@cache
def _own(pid: int) -> int | None:
    """Asked once: a clock that is set makes no other process of this one."""
    return _of(pid)


def _of(pid: int) -> int | None:
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).create_time() * 100)
    return None
