"""What a mask measures: per class, and per connected part of it.

One pass over the slices, a block at a time; nothing of the size of the volume is made. Counts,
boxes and centroids are exact; areas are those of marching cubes (see `io.cells`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.cells import area_table, border_cells, corners, length_table
from napari_attnseg.io.components import Block, Walk
from napari_attnseg.io.measure_space import Space


@dataclass(frozen=True)
class Region:
    """One class, or one connected part of it.

    ``part``: 0 for the whole class, else 1 (the largest), 2, ... ``size``: mm^3 (of a picture
    mm^2; voxels where no size is known). ``surface``: mm^2 of marching cubes, of a picture the
    perimeter in mm. ``low``, ``high``: box in voxels (z, y, x), ``high`` not included;
    ``world_low``, ``world_high``: the same in the world, whole voxel bodies. ``centroid`` in
    voxels, ``world_centroid`` in the world. ``mean``, ``sd`` (population) of the image's finite
    values, ``None`` without an image; of colour the mean of its channels.
    """

    id: int
    name: str
    part: int
    parts: int
    voxels: int
    size: float
    surface: float
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    world_low: tuple[float, float, float]
    world_high: tuple[float, float, float]
    centroid: tuple[float, float, float]
    world_centroid: tuple[float, float, float]
    mean: float | None = None
    sd: float | None = None

    @property
    def slice(self) -> int:
        """The slice nearest to the centroid."""
        return int(np.floor(self.centroid[0] + 0.5))


@dataclass(frozen=True)
class Measures:
    """Everything measured of one mask: ``classes`` by id, ``parts`` by id and falling size.

    ``parts`` is empty unless asked for.
    """

    space: Space
    shape: tuple[int, int, int]
    classes: tuple[Region, ...]
    parts: tuple[Region, ...] = ()

    def parts_of(self, id: int) -> tuple[Region, ...]:
        """The parts of class ``id``, the largest first."""
        return tuple(part for part in self.parts if part.id == id)


def measure(
    labels_ZYX: Any,
    space: Space,
    image: Any = None,
    names: Mapping[int, str] | None = None,
    parts: bool = False,
    pause: Callable[[float], object] = lambda share: None,
) -> Measures:
    """Measure every id but 0 of a mask (Z, Y, X) of whole numbers.

    ``image``: (Z, Y, X) or, for colour, (Z, Y, X, C) values of the same voxels; both may be lazy
    arrays that give slices. ``parts``: list connected parts too. ``pause`` is called after each
    block with the share that is done, and may raise to stop. Raises ``InputError`` when mask and
    image differ in size or the mask has no whole numbers.
    """
    _check(labels_ZYX, image)
    walk = Walk(labels_ZYX)
    tables = _Tables(space)
    sums = []
    for block in walk:
        sums.append(_sums(block, tables, image))
        pause(min(1.0, (block.z + len(block.labels)) / walk.shape[0]))
    if not sums:
        return Measures(space, walk.shape, ())
    of, count = walk.whole()
    found = _Sums.joined(sums).gathered(of, count)
    ids, index = np.unique(found.id, return_inverse=True)
    each = np.bincount(index, minlength=len(ids))
    maker = _Maker(space, names or {})
    classes = maker.regions(found.gathered(index, len(ids)), each, None)
    listed = maker.regions(*_ranked(found, each[index])) if parts else ()
    return Measures(space, walk.shape, classes, listed)


def _check(labels_ZYX: Any, image: Any) -> None:
    shape, kind = tuple(labels_ZYX.shape), np.dtype(labels_ZYX.dtype).kind
    if len(shape) != 3 or 0 in shape or kind not in "biu":
        raise InputError(
            f"got a mask of shape {shape} and type {labels_ZYX.dtype}; expected whole-numbered "
            "ids with the axes (Z, Y, X)"
        )
    if image is not None and tuple(image.shape[:3]) != shape:
        raise InputError(
            f"mask is {shape} but the image is {tuple(image.shape[:3])} (Z, Y, X); "
            "measure a mask on the image it was made from"
        )


class _Tables:
    """What a cell of each kind is worth in a space."""

    def __init__(self, space: Space) -> None:
        self.flat = space.flat
        self.table = length_table(space.linear[1:, 1:]) if self.flat else area_table(space.linear)

    def surfaces(self, block: Block) -> np.ndarray:
        """Surface of every part of a block. The corners of a cell that are of one class touch,
        so a cell's piece of the surface of a class belongs to one part."""
        labels, parts = block.labels, block.parts
        if self.flat:
            labels, parts = labels[1], parts[1]
        total = np.zeros(block.count + 1)
        for id in np.unique(labels):
            if id == 0:
                continue
            where, code = border_cells(np.ascontiguousarray(labels == id))
            at = np.unravel_index(where, [n - 1 for n in labels.shape])
            sides = zip(corners(labels), corners(parts), strict=True)
            owner = np.max([np.where(c[at] == id, p[at], 0) for c, p in sides], axis=0)
            total += np.bincount(owner, self.table[code], minlength=len(total))
        return total[1:]


@dataclass(frozen=True, eq=False)
class _Sums:
    """What adds up, one entry per part: ``n`` voxels, index sums, box, and the values' number,
    mean and sum of squared deviations."""

    id: np.ndarray
    n: np.ndarray
    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    surface: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def joined(cls, parts: list[_Sums]) -> _Sums:
        """Those of several blocks, one after the other."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def gathered(self, of: np.ndarray, count: int) -> _Sums:
        """Entries with the same ``of`` become one (moments after Chan, Golub and LeVeque)."""

        def add(values: np.ndarray) -> np.ndarray:
            return np.bincount(of, values, minlength=count)

        id = np.zeros(count, np.int64)
        id[of] = self.id
        low = np.full((count, 3), np.iinfo(np.int64).max)
        high = np.zeros((count, 3), np.int64)
        np.minimum.at(low, of, self.low)
        np.maximum.at(high, of, self.high)
        number = add(self.values)
        mean = add(self.values * self.mean) / np.maximum(number, 1)
        squares = add(self.squares + self.values * (self.mean - mean[of]) ** 2)
        at = np.stack([add(self.at[:, axis]) for axis in range(3)], 1)
        n = add(self.n).astype(np.int64)
        return _Sums(id, n, at, low, high, add(self.surface), number, mean, squares)

    def taken(self, order: np.ndarray) -> _Sums:
        """The entries ``order``."""
        return _Sums(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def _sums(block: Block, tables: _Tables, image: Any) -> _Sums:
    own = block.parts[block.own, 1:-1, 1:-1]
    z, y, x = np.nonzero(own)
    part = own[z, y, x] - 1
    count = block.count
    start = np.array([block.z, block.y, block.x])
    id = np.zeros(count + 1, np.int64)
    id[block.parts.reshape(-1)] = block.labels.reshape(-1)
    n = np.bincount(part, minlength=count)
    at = np.stack([np.bincount(part, axis, minlength=count) for axis in (z, y, x)], 1)
    at += n[:, None] * start
    values = _moments(block, image, (z, y, x), part)
    box = _boxes(own, count, start)
    return _Sums(id[1:], n, at, *box, tables.surfaces(block), *values)


def _boxes(parts: np.ndarray, count: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least index and the one after the greatest, (count, 3) each; of an absent part nothing."""
    from scipy.ndimage import find_objects

    low = np.full((count, 3), np.iinfo(np.int64).max)
    high = np.zeros((count, 3), np.int64)
    for i, box in enumerate(find_objects(parts, count)):
        if box is not None:
            low[i] = start + [side.start for side in box]
            high[i] = start + [side.stop for side in box]
    return low, high


def _moments(
    block: Block, image: Any, at: tuple[np.ndarray, ...], part: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, mean and squared deviations of the finite values of every part."""
    count = block.count
    if image is None:
        return np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    values = block.inside(image)[at].astype(np.float64)
    values = values.mean(-1) if values.ndim == 2 else values
    fine = np.isfinite(values)
    if not fine.all():
        values, part = values[fine], part[fine]
    number = np.bincount(part, minlength=count)
    mean = np.bincount(part, values, minlength=count) / np.maximum(number, 1)
    squares = np.bincount(part, (values - mean[part]) ** 2, minlength=count)
    return number, mean, squares


def _ranked(found: _Sums, siblings: np.ndarray) -> tuple[_Sums, np.ndarray, np.ndarray]:
    """Parts by class, then falling size, then first slice; their number in the class."""
    order = np.lexsort((found.low[:, 2], found.low[:, 1], found.low[:, 0], -found.n, found.id))
    ids = found.id[order]
    first = np.searchsorted(ids, ids)
    return found.taken(order), siblings[order], np.arange(1, len(order) + 1) - first


class _Maker:
    """From sums to what a person reads."""

    def __init__(self, space: Space, names: Mapping[int, str]) -> None:
        self._space, self._names = space, names

    def regions(
        self, sums: _Sums, parts: np.ndarray, rank: np.ndarray | None
    ) -> tuple[Region, ...]:
        """``rank``: number of each part in its class, ``None`` for whole classes."""
        middle = sums.at / np.maximum(sums.n, 1)[:, None]  # painted away while it was counted
        world = self._space.world(middle)
        return tuple(
            self._region(sums, i, int(parts[i]), 0 if rank is None else int(rank[i]), *place)
            for i, place in enumerate(zip(middle, world, strict=True))
        )

    def _region(
        self, sums: _Sums, i: int, parts: int, rank: int, middle: np.ndarray, world: np.ndarray
    ) -> Region:
        id, voxels, known = int(sums.id[i]), int(sums.n[i]), int(sums.values[i])
        low, high = self._space.world_box(sums.low[i], sums.high[i])
        return Region(
            id=id,
            name=self._names.get(id, f"class {id}"),
            part=rank,
            parts=parts,
            voxels=voxels,
            size=voxels * self._space.voxel,
            surface=float(sums.surface[i]),
            low=_three(sums.low[i], int),
            high=_three(sums.high[i], int),
            world_low=_three(low, float),
            world_high=_three(high, float),
            centroid=_three(middle, float),
            world_centroid=_three(world, float),
            mean=float(sums.mean[i]) if known else None,
            sd=float(np.sqrt(sums.squares[i] / known)) if known else None,
        )


def _three(values: np.ndarray, kind: Any) -> Any:
    a, b, c = (kind(v) for v in values)
    return a, b, c
