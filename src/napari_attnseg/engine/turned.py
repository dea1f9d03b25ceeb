"""A volume whose slices are taken along another of its axes.

View axes are (Z, Y, X). Axial slices (axis 0) are (Y, X). Coronal ones (axis 1) are (Z, X) and
sagittal ones (axis 2) are (Z, Y): the two axes that are left, in their order. They stand as
radiologists show them: the head at the top, so that a row further down is further inferior; the
patient's left, or the back, on the right.

A network that learnt on axial slices knows square pixels of their size. Slices along other axes
have the distance between axial slices as the height of their pixels, so their rows are brought to
the size of their columns before the network, and the answer back.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from napari_attnseg.engine.preprocess import working_size
from napari_attnseg.settings import Preprocessing

T = TypeVar("T")
SLAB_BYTES = 64 << 20
"""Slices along another axis lie scattered in the file; so many bytes of them are read at once."""


def in_order(values: tuple[T, ...], axis: int) -> tuple[T, ...]:
    """What belongs to (Z, Y, X), for slices along ``axis``: that axis first, then the others."""
    return (values[axis], *(v for i, v in enumerate(values) if i != axis))


def standing(flips: tuple[bool, bool, bool], axis: int) -> tuple[bool, bool, bool]:
    """Axes of the turned volume to reverse before the network. ``flips``: those of (Z, Y, X) that
    must be reversed to run towards head, back and left."""
    z, y, x = flips
    if axis == 0:
        return flips
    return (y, not z, x) if axis == 1 else (x, not z, y)


def size_along(
    axis: int, size: tuple[int, int], p: Preprocessing, spacing_mm: tuple[float, ...]
) -> tuple[int, int]:
    """Rows and columns at which the network works on a slice along ``axis``.

    ``size``: of the slice; ``spacing_mm``: of the turned volume (may be empty: taken for square).
    """
    if axis == 0 or p.size or len(spacing_mm) != 3:
        return working_size(size, p, spacing_mm)
    column = spacing_mm[2]  # a column of a coronal slice is one of an axial slice (X)
    if p.spacing_mm:
        column = p.spacing_mm[-1] if axis == 1 else p.spacing_mm[-2]
    rows, cols = (max(1, round(n * s / column)) for n, s in zip(size, spacing_mm[1:], strict=True))
    return rows, cols


def depth_along(slices: int, p: Preprocessing, spacing_mm: tuple[float, ...]) -> int:
    """Slices at which a 3D network works on so many; ``spacing_mm`` of (Z, Y, X) or empty."""
    if not p.spacing_mm or len(p.spacing_mm) != 3 or len(spacing_mm) != 3:
        return slices
    return max(1, round(slices * spacing_mm[0] / p.spacing_mm[0]))


class Turned:
    """Slices of ``source`` (Z, Y, X) or (Z, Y, X, 3) along ``axis`` 1 or 2, by their number.

    ``source`` may lie in a file, or be read lazily: of it a slab of neighbouring slices of at most
    ``limit`` bytes is held, so that slices in order read every part of the file a few times, not
    once per slice.
    """

    def __init__(self, source: np.ndarray, axis: int, limit: int = SLAB_BYTES) -> None:
        self.source, self.axis = source, axis
        self.shape = (*in_order(source.shape[:3], axis), *source.shape[3:])
        self.dtype = source.dtype
        each = int(np.prod(self.shape[1:])) * source.dtype.itemsize
        self._count = max(1, limit // max(each, 1))
        self._first, self._slab = 0, np.empty((0, *self.shape[1:]), source.dtype)

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < self.shape[0]:
            raise IndexError(f"slice {k} of {self.shape[0]}")
        if not self._first <= k < self._first + len(self._slab):
            self._slab = self._slab[:0]  # let go before the next one is held
            self._first = k // self._count * self._count
            part = [slice(None)] * self.axis + [slice(self._first, self._first + self._count)]
            slab = np.asarray(self.source[tuple(part)])
            self._slab = np.ascontiguousarray(np.moveaxis(slab, self.axis, 0))
        return self._slab[k - self._first]
