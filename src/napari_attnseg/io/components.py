"""Connected parts of all classes of a mask, a few slices at a time.

A part is a set of equal ids that touch by faces, edges or corners (8 neighbours in a picture, 26
in a volume), as ``split_objects`` has it. Each block of slices is labelled with the last slice of
the block before it; where the two labellings of that slice meet, parts are one. So memory is that
of a block and one entry per part of a block, whatever the number of slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK_VOXELS = 1 << 20
"""Voxels labelled at once: small enough that a window in the same process stays smooth."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some slices with a rim of background around them, and the slice before them on top.

    ``labels``: (n + 1, Y + 2, X + 2) ids, cut to what is not background. ``parts``: int64, the
    part of every voxel, from 1; ``first``: number of part 1 in the whole volume. ``z``, ``y``,
    ``x``: indices of ``labels[1, 1, 1]`` in the volume. ``last``: a slice of background follows.
    """

    labels: np.ndarray
    parts: np.ndarray
    count: int
    first: int
    z: int
    y: int
    x: int
    last: bool

    @property
    def own(self) -> slice:
        """The slices of ``labels`` that are this block's own."""
        return slice(1, len(self.labels) - int(self.last))

    def inside(self, volume_ZYX: Any) -> np.ndarray:
        """The same voxels of another volume, without rim: (n, Y, X[, C])."""
        n, y, x = (s - 2 for s in self.labels.shape)
        n += int(not self.last)
        part = volume_ZYX[self.z : self.z + n]
        return np.asarray(part[:, self.y : self.y + y, self.x : self.x + x])


def block_depth(shape: tuple[int, ...]) -> int:
    """Slices per block."""
    return max(1, BLOCK_VOXELS // max(1, shape[1] * shape[2]))


class Walk:
    """Blocks of a mask (Z, Y, X), and afterwards :meth:`whole`: which parts are one.

    ``labels_ZYX`` may be a memory map or any array that gives slices. ``faces``: parts touch by
    faces alone (4 and 6 neighbours), as the outside of a closed surface does. ``look``: what is
    looked at instead of the ids of a block of slices.
    """

    def __init__(
        self,
        labels_ZYX: Any,
        faces: bool = False,
        look: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> None:
        self._labels, self._look = labels_ZYX, look
        self._connectivity = 1 if faces else 3
        self.shape: tuple[int, int, int] = tuple(labels_ZYX.shape)
        self.count = 0
        self._pairs: list[np.ndarray] = []

    def __iter__(self) -> Iterator[Block]:
        self.count, self._pairs = 0, []
        depth, n = block_depth(self.shape), self.shape[0]
        above = np.zeros(self.shape[1:], self._look(self._labels[:1]).dtype)
        seen: tuple[np.ndarray, np.ndarray] | None = None
        for z in range(0, n, depth):
            own = self._look(self._labels[z : z + depth])
            stack = np.concatenate([above[None], own])
            above = own[-1]
            box = _box(stack)
            if box is None:
                seen = None
                continue
            block = self._block(stack, box, z, z + depth >= n)
            self._join(seen, block)
            self.count += block.count
            seen = self._bottom(block)
            yield block

    def whole(self) -> tuple[np.ndarray, int]:
        """For every part of a block the number (from 0) of the whole part, and how many."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs])
        links = coo_array(
            (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(self.count,) * 2
        )
        number, of = connected_components(links, directed=False)
        return of.astype(np.int64), int(number)

    def _block(self, stack: np.ndarray, box: tuple[slice, slice], z: int, last: bool) -> Block:
        from skimage.measure import label

        rows, cols = box
        padded = np.pad(stack[:, rows, cols], ((0, int(last)), (1, 1), (1, 1)))
        parts, count = label(padded, background=0, connectivity=self._connectivity, return_num=True)
        return Block(padded, parts, count, self.count, z, rows.start, cols.start, last)

    def _bottom(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Places (flat) and volume-wide parts of the last own slice of a block."""
        bottom = block.parts[block.own][-1, 1:-1, 1:-1]
        y, x = np.nonzero(bottom)
        places = (y + block.y) * self.shape[2] + x + block.x
        return places, bottom[y, x] - 1 + block.first

    def _join(self, seen: tuple[np.ndarray, np.ndarray] | None, block: Block) -> None:
        """Parts that share a voxel of the slice between two blocks are one."""
        if seen is None:
            return
        y, x = np.divmod(seen[0], self.shape[2])
        mine = block.parts[0][y - block.y + 1, x - block.x + 1] - 1 + block.first
        keys = np.unique(seen[1] * np.int64(block.first + block.count) + mine)
        self._pairs.append(np.stack(np.divmod(keys, block.first + block.count), 1))


def _box(stack: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns that hold anything but background."""
    flat = np.asarray(stack.any(axis=0))
    rows, cols = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
