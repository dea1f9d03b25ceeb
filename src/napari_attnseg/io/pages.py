"""Mapped files: their room on the disk, and their memory, given back while they stay open."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from typing import Any, TypeVar

import numpy as np

A = TypeVar("A")
LARGE = 4 << 20
"""Bytes from which on a map is worth looking after."""
SECONDS = 0.5
"""Between two returns of the pages of all maps that are followed."""
READ_BYTES = 32 << 20
"""Of one map, read part by part."""
PAGED = 8
"""Bytes of pages for each byte of scattered pixels. In truth it is more, but whoever scrolls
through the cuts of a volume would wait for their pages at every step."""
SHARED = ("r", "r+", "w+")
"""Modes of ``numpy.memmap`` whose pages are those of the file: what was written into them is the
file's, also when this process lets them go. Pages of a map with mode ``"c"`` are its own."""


def let_go(array: Any) -> bool:
    """Give back the pages of a file map (or a view of one) that were looked at or written.

    They are read again, mostly from the system's own cache, when they are looked at again; what
    was written into a shared map is in the system's hands already. Nothing happens to other
    arrays: those have no file to be read from again. Returns whether pages were given back (Linux
    and macOS can).
    """
    pages = _pages(array)
    return pages is not None and _give_back(pages)


def follow(array: A) -> A:
    """From now on give the pages of a large file map back twice a second, whoever looks at them.

    Without it a window that once showed a volume holds all of its pixels until it is closed: the
    system takes them back only when memory is short. Other arrays are left alone. Returns
    ``array``.
    """
    pages = _pages(array)
    if pages is not None and hasattr(pages, "madvise") and len(pages) >= LARGE:
        _keeper.add(pages)
    return array


def reserve(handle: int, nbytes: int) -> None:
    """Give an open file its blocks now, all zeros: a full disk is an ``OSError`` here, and not the
    end of the program at the first page of a map that finds no room. Where the system cannot do
    it (macOS, Windows) the file gets its length alone."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, nbytes)
    elif os.fstat(handle).st_size < nbytes:
        os.truncate(handle, nbytes)


def looked_at(part: np.ndarray) -> None:
    """Count a part of a map that is about to be read; after every :data:`READ_BYTES` the pages of
    the map are given back. Who reads a volume from end to end holds no more of it than that."""
    pages = _pages(part)
    if pages is None or len(pages) < LARGE:
        return
    steps = zip(part.shape, part.strides, strict=True)
    extent = part.itemsize + sum((n - 1) * abs(step) for n, step in steps)
    _read[pages] = _read.get(pages, 0) + min(extent, PAGED * part.nbytes)
    if _read[pages] > READ_BYTES:
        _read[pages] = 0
        _give_back(pages)


class _Keeper:
    """The maps that are followed, and the thread that looks after them while there are any."""

    def __init__(self) -> None:
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, pages: mmap.mmap) -> None:
        with self._lock:
            self._maps.add(pages)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="attnseg-pages")
                self._thread.daemon = True
                self._thread.start()

    def _look(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(SECONDS)
            with self._lock:
                maps = list(self._maps)
                if not maps:
                    self._thread = None
                    return
            while maps:  # none is held over the pause: the last array over it may be gone
                _give_back(maps.pop())


_keeper = _Keeper()
_read: weakref.WeakKeyDictionary[mmap.mmap, int] = weakref.WeakKeyDictionary()


def _give_back(pages: mmap.mmap) -> bool:
    if not hasattr(pages, "madvise"):
        return False
    with contextlib.suppress(OSError, ValueError):
        pages.madvise(mmap.MADV_DONTNEED)
        return True
    return False


def _pages(array: Any) -> mmap.mmap | None:
    """The map under ``array`` if it is one of a file that shares its pages with it."""
    shared = False
    while array is not None and not isinstance(array, mmap.mmap):
        if isinstance(array, memoryview):
            array = array.obj
            continue
        shared |= isinstance(array, np.memmap) and getattr(array, "mode", "") in SHARED
        array = getattr(array, "base", None)
    return array if shared else None
