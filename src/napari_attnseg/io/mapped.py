"""Pixels that stay in their file and are read where they are looked at."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import identity
from napari_attnseg.io.pages import follow, looked_at

PIECE_BYTES = 64 << 20
"""Parts up to this size come as copies, which no change of the file can hurt."""


class Place(NamedTuple):
    """Where the pixels of an array lie: in the file ``path``, whose ``stamp`` (bytes, time of the
    last change in ns) says that it is still the same one; as ``numpy.ndarray`` takes it."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    stamp: tuple[int, int]


class FileMap(np.memmap):
    """A read-only map of a file of somebody else's.

    A file that was cut short under a map ends the whole program at the next page that is
    touched. So every part that is asked for is taken after a look at the file, as a copy, and
    raises ``InputError`` when the file does not hold it any more. Transposing makes a view as
    ever; arithmetic on the whole is not guarded.
    """

    identity: tuple[int, ...] | None

    def __new__(
        cls, path: Path, dtype: Any, offset: int, shape: tuple[int, ...], order: str = "F"
    ) -> FileMap:
        """Map ``shape`` values that begin at byte ``offset``."""
        before = identity(path)
        made = super().__new__(cls, path, dtype, "r", offset, shape, order)  # type: ignore[call-overload]
        made.identity = before if identity(path) == before else None
        return follow(made)

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        self.identity = getattr(obj, "identity", None)

    def __getitem__(self, key: Any) -> Any:
        self._look()
        found = super().__getitem__(key)
        small = isinstance(found, np.ndarray) and found.nbytes <= PIECE_BYTES
        if not small:
            return found
        looked_at(found)
        return np.array(found)

    def _look(self) -> None:
        pages = getattr(self, "_mmap", None)
        if pages is not None and pages.size() < _start(self) + len(pages):
            name = Path(str(self.filename)).name
            raise InputError(
                f"{name} was cut short or written anew by another program while it was open; "
                "open it again"
            )


def place_of(array: Any) -> Place | None:
    """Where a :class:`FileMap` (or a view of one) lies, if its file is still what it was.

    ``None`` for every other array: it must be copied to be handed to another process.
    """
    if not isinstance(array, FileMap) or array.identity is None or array.filename is None:
        return None
    path = Path(str(array.filename))
    if identity(path) != array.identity:
        return None
    pages: mmap.mmap = array._mmap  # type: ignore[attr-defined]
    first = np.frombuffer(pages, np.uint8).ctypes.data
    inside = array.ctypes.data - first
    _, _, size, changed = array.identity
    return Place(
        str(path),
        array.dtype.str,
        _start(array) + inside,
        array.shape,
        array.strides,
        (size, changed),
    )


def open_place(place: Place) -> npt.NDArray[Any]:
    """The pixels, read-only; raises ``OSError`` or ``ValueError`` when the file has changed."""
    state = os.stat(place.path)
    if (state.st_size, state.st_mtime_ns) != tuple(place.stamp):
        raise ValueError("it was changed since it was opened")
    whole = follow(np.memmap(place.path, np.uint8, "r"))
    return np.ndarray(
        tuple(place.shape), np.dtype(place.dtype), whole, place.offset, tuple(place.strides)
    )


def _start(array: np.memmap) -> int:
    """Byte of the file at which its pages begin."""
    return array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
