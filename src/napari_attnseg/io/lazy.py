"""Arrays that are read where they are asked for, a plane at a time, without reading twice."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

BLOCK_BYTES = 64 << 20
"""About what one read of the file decodes: the chunks under a plane, or under a tile of it."""
KEPT_BYTES = 256 << 20
"""Decoded blocks of the file that are kept, the last used ones."""


def lazy_array(array: Any, picks: dict[int, int], order: tuple[int, ...]) -> Any:
    """A dask array over a chunked array (zarr), the axes in ``picks`` fixed, the others in
    ``order``. Nothing is read here.

    Blocks are planes of the first axis of the result. A chunk of the file that is deeper than a
    plane is decoded once and kept for its next planes.
    """
    import dask.array as da

    source = Chunks(array, picks, order)
    deep = source.chunks[0] * source.dtype.itemsize * math.prod(source.shape[3:])
    side = math.sqrt(BLOCK_BYTES / deep)
    rest = list(source.shape[1:])
    if math.prod(rest[:2]) > 2 * side**2:
        for axis in (0, 1):
            chunk = source.chunks[axis + 1]
            rest[axis] = min(rest[axis], max(1, int(side / chunk)) * chunk)
    meta = np.empty((0,) * len(source.shape), source.dtype)
    return da.from_array(source, chunks=(1, *rest), name=False, meta=meta)


class Chunks:
    """Reads whole chunks of ``array`` and keeps the last ones; safe for several threads."""

    def __init__(self, array: Any, picks: dict[int, int], order: tuple[int, ...]) -> None:
        self._array, self._picks, self._order = array, picks, order
        self.shape = tuple(int(array.shape[a]) for a in order)
        self.chunks = tuple(min(int(array.chunks[a]), n) for a, n in self._sized())
        self.dtype = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self._kept: OrderedDict[tuple[tuple[int, int], ...], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def _sized(self) -> list[tuple[int, int]]:
        return [(a, max(1, int(self._array.shape[a]))) for a in self._order]

    def __getitem__(self, index: tuple[slice | int, ...]) -> np.ndarray:
        """``index``: a slice or a number per axis. dask asks for its blocks, and puts the slicing
        of its users into the question where it can."""
        spans = [_span(i, n) for i, n in zip(index, self.shape, strict=True)]
        ends = [
            (low // c * c, min(n, -(-high // c) * c))
            for (low, high), c, n in zip(spans, self.chunks, self.shape, strict=True)
        ]
        block = self._block(tuple((int(a), int(b)) for a, b in ends))
        part = block[
            tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(spans, ends, strict=True))
        ]
        return part[tuple(slice(None, None, i.step) if isinstance(i, slice) else 0 for i in index)]

    def _block(self, ends: tuple[tuple[int, int], ...]) -> np.ndarray:
        with self._lock:
            if ends in self._kept:
                self._kept.move_to_end(ends)
                return self._kept[ends]
            block = self._read(ends)
            self._kept[ends] = block
            while len(self._kept) > 1 and sum(b.nbytes for b in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return block

    def _read(self, ends: tuple[tuple[int, int], ...]) -> np.ndarray:
        spans = {a: slice(*span) for a, span in zip(self._order, ends, strict=True)}
        index = tuple(
            self._picks[a] if a in self._picks else spans[a] for a in range(self._array.ndim)
        )
        data = np.asarray(self._array[index])
        left = [a for a in range(self._array.ndim) if a not in self._picks]
        return np.transpose(data, [left.index(a) for a in self._order])


def _span(index: slice | int, count: int) -> tuple[int, int]:
    """First and behind the last place that ``index`` meets on an axis of ``count``."""
    places = range(count)[index] if isinstance(index, slice) else range(count)[index:][:1]
    return (min(places[0], places[-1]), max(places[0], places[-1]) + 1) if places else (0, 0)
