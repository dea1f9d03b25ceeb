"""Whether the process that a folder was named after still lives, here or on another machine.

On this machine the system is asked for the process. Of a process on another machine, whose home
folder is this one too, nobody here can ask: while it lives, a thread of it sets the time of its
folders anew (a *beat*). No file is locked for that: a lock service of a shared disk that does not
answer holds a window for ever, and many such disks lock for one machine only.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

CLOCK_TICKS = 60_000
"""Hundredths of a second by which a living process may seem to have begun earlier or later than it
said: the system reckons with the clock of today, which may have been set since. Who is taken for
living keeps his files a little longer; who is taken for dead loses them."""
BEAT_SECONDS = 30.0
"""How often a process says that it lives."""
SILENT_SECONDS = 600.0
"""A process of another machine that was not heard of for so long is taken for dead. A shared disk
may tell the time of a folder a minute late."""
MARK = r"(?P<pid>\d+)-(?P<start>\d+)(?:@(?P<host>[^@]*))?"
"""What :func:`mark` writes, as a regular expression; older folders name no machine."""


@cache
def here() -> str:
    """The name of this machine, in letters that every disk takes."""
    return re.sub(r"[^a-z0-9.-]", "_", socket.gethostname().lower())[:64] or "unknown"


def mark() -> str:
    """The name of this process, which no later one and none of another machine has."""
    return f"{os.getpid()}-{begun(os.getpid())}@{here()}"


def begun(pid: int) -> int | None:
    """When process ``pid`` began, in hundredths of a second; ``None``: there is none."""
    return _own(pid) if pid == os.getpid() else _of(pid)


def lives(pid: int, start: int) -> bool:
    """Whether the process of this machine that was ``pid`` and had :func:`begun` at ``start``
    still lives."""
    now = begun(pid)
    if now is None or pid == os.getpid():
        return now == start
    return abs(now - start) <= CLOCK_TICKS


def is_ours(match: re.Match[str]) -> bool:
    """Whether a :data:`MARK` names a process of this machine."""
    return match["host"] in (None, here())


def owned(folder: Path, match: re.Match[str], silent: float = SILENT_SECONDS) -> bool:
    """Whether the process whose :data:`MARK` stands in the name of ``folder`` lives, or was heard
    of in the last ``silent`` seconds."""
    if is_ours(match):
        return lives(int(match["pid"]), int(match["start"]))
    try:
        return _now(folder.parent) - folder.stat().st_mtime < silent
    except OSError:  # gone, or not to be looked at: nothing to be taken
        return True


def beat(folder: Path) -> None:
    """Say of ``folder`` that its process lives, until :func:`rest`."""
    _heart.take(folder)


def rest(folder: Path) -> None:
    """The folder is done with."""
    _heart.leave(folder)


class _Heart:
    """One thread for all folders of this process."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def take(self, folder: Path) -> None:
        with self._lock:
            self._folders.add(folder)
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(target=self._work, name="attnseg-beat", daemon=True)
                self._thread.start()

    def leave(self, folder: Path) -> None:
        with self._lock:
            self._folders.discard(folder)

    def _work(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._lock:
                folders = tuple(self._folders)
            for folder in folders:
                with contextlib.suppress(OSError):  # a disk that is away for a while
                    os.utime(folder)


_heart = _Heart()


def _now(root: Path) -> float:
    """The time by the clock of the disk: a file server's may go wrong by minutes."""
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


@cache
def _own(pid: int) -> int | None:
    """Asked once: a clock that is set makes no other process of this one."""
    return _of(pid)


def _of(pid: int) -> int | None:
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).create_time() * 100)
    return None
