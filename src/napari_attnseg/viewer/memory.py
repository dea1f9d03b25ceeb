"""Memory for results that fills slice by slice: the computer's own, or a file for large ones."""

from __future__ import annotations

import math
import mmap
import shutil
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.control.scratch import ROOT_VARIABLE
from napari_attnseg.errors import InputError
from napari_attnseg.io.pages import follow, reserve

if TYPE_CHECKING:
    from napari_attnseg.control.scratch import Scratch

LARGE_BYTES = 4 << 20
"""From here on numpy asks the system for huge pages."""
DISK_BYTES = 16 << 20
"""From here on a volume of results lies in a file: the labels of 64 slices of 512 x 512."""


def volume_store(
    shape: tuple[int, ...], dtype: Any, scratch: Scratch | None = None
) -> npt.NDArray[Any]:
    """Zeros of ``shape`` to be filled: in memory, or from :data:`DISK_BYTES` on in ``scratch``.

    A file's pages belong to the system, which writes them out and lets them go when memory is
    short. It is a ``.npy`` file, removed when the last array over it is gone. Raises
    ``InputError`` when the disk has no room for all of it: a file that only promised its room
    would end the program at the first pixel that finds none.
    """
    nbytes = store_bytes(shape, dtype)
    if scratch is None or not nbytes:
        return empty_volume(shape, dtype)
    scratch.ensure_room(nbytes)
    folder = scratch.folder("layer")
    path = folder / "voxels.npy"
    try:
        array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
        with path.open("r+b") as file:  # what is there still reads as zeros
            reserve(file.fileno(), path.stat().st_size)
    except OSError as error:
        scratch.drop(folder)
        raise InputError(
            f"cannot reserve {nbytes / 1e9:.1f} GB for a layer in {scratch.path.parent} "
            f"({error.strerror}); free some disk space, or set {ROOT_VARIABLE} to a folder on a "
            "larger disk"
        ) from error
    # the map itself: views of the array outlive the array
    gone = weakref.finalize(array._mmap, shutil.rmtree, folder, ignore_errors=True)  # type: ignore[attr-defined]
    gone.atexit = False  # what is left then goes with the whole scratch folder
    return follow(array)


def store_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of scratch that :func:`volume_store` would take."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return nbytes if nbytes >= DISK_BYTES else 0


def empty_volume(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Zeros of ``shape`` that take memory only where they are written, a small page at a time.

    ``numpy.zeros`` asks for huge pages on Linux: the first pixel written into each of them makes
    the system clear 2 MiB, which held the window up for 5 to 10 ms every few slices. Small pages
    cost a seventh of a millisecond per slice.
    """
    wanted = np.dtype(dtype)
    nbytes = math.prod(shape) * wanted.itemsize
    if sys.platform != "linux" or nbytes < LARGE_BYTES:
        return np.zeros(shape, wanted)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, wanted).reshape(shape)
