"""Memory that a mapped file takes in this process, given back while the map stays open."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np


def let_go(array: Any) -> bool:
    """Give back the pages of a read-only file map (or a view of one) that were looked at.

    They are read again, mostly from the system's own cache, when they are looked at again.
    Nothing happens to other arrays: those have no file to be read from again. Returns whether
    pages were given back (Linux and macOS can).
    """
    pages = _pages(array)
    if pages is None or not hasattr(pages, "madvise"):
        return False
    with contextlib.suppress(OSError, ValueError):
        pages.madvise(mmap.MADV_DONTNEED)
        return True
    return False


def _pages(array: Any) -> mmap.mmap | None:
    """The map under ``array`` if it is one of a file, opened for reading alone."""
    read_only = False
    while array is not None and not isinstance(array, mmap.mmap):
        if isinstance(array, memoryview):
            array = array.obj
            continue
        read_only |= isinstance(array, np.memmap) and getattr(array, "mode", "") == "r"
        array = getattr(array, "base", None)
    return array if read_only else None
