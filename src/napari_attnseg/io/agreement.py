"""How well a mask agrees with a reference, per class: overlap, and distance of the surfaces.

The surface of a class is its voxels with a face neighbour that is not of the class (the image's
end counts as such), as in MONAI's metrics. Distances are between voxel centres in the world, found
with a k-d tree, so they are exact in oblique and sheared volumes and memory follows the surface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.components import block_depth
from napari_attnseg.io.measure_space import Space

SAME, ONLY_MASK, ONLY_REFERENCE, OTHER_CLASS = 1, 2, 3, 4
"""Ids of an error map: agreement, false positive, false negative, another class than it should."""
PERCENTILE = 95
BINARY = (255, 65535)


@dataclass(frozen=True)
class Agreement:
    """One class of a mask against its reference.

    ``tp``, ``fp``, ``fn``: voxels in both, in the mask alone, in the reference alone. ``hd95``:
    the greater of the two 95th percentiles of surface distances (mm; pixels where no size is
    known), ``None`` when the class is absent from one of them. ``surface_dice``: share of both
    surfaces that lies within ``tolerance`` of the other (0 when absent from one).
    """

    id: int
    name: str
    tp: int
    fp: int
    fn: int
    hd95: float | None
    surface_dice: float
    tolerance: float

    @property
    def dice(self) -> float:
        """``2 tp / (2 tp + fp + fn)``."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """``tp / (tp + fp + fn)``."""
        return self.tp / (self.tp + self.fp + self.fn)

    def row(self) -> dict[str, Any]:
        """Columns of a table."""
        return {
            "dice": self.dice,
            "iou": self.iou,
            "hd95": self.hd95,
            "surface_dice": self.surface_dice,
            "tolerance": self.tolerance,
            "false_positive_voxels": self.fp,
            "false_negative_voxels": self.fn,
        }


def agreement(
    labels_ZYX: Any,
    reference_ZYX: Any,
    space: Space,
    names: Mapping[int, str] | None = None,
    tolerance: float | None = None,
    pause: Callable[[float], object] = lambda share: None,
) -> tuple[Agreement, ...]:
    """Compare every class that occurs in the mask or in the reference (ids, same axes and size).

    ``tolerance`` of the surface Dice: default :attr:`Space.default_tolerance`. ``pause``: see
    ``measure``. Raises ``InputError`` for masks of different size and a negative tolerance.
    """
    _check(labels_ZYX, reference_ZYX)
    tolerance = space.default_tolerance if tolerance is None else float(tolerance)
    if not tolerance >= 0:
        raise InputError(f"got a tolerance of {tolerance:g}, expected 0 or more")
    axes = (1, 2) if labels_ZYX.shape[0] == 1 else (0, 1, 2)  # one slice has no above and below
    counts: dict[int, list[int]] = {}
    faces: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for z, ours, theirs in _blocks(labels_ZYX, reference_ZYX):
        for id in map(int, np.union1d(ours, theirs)):
            if id:
                a, b = ours == id, theirs == id
                _count(counts.setdefault(id, [0, 0, 0]), a[1:-1, 1:-1], b[1:-1, 1:-1])
                for side, mask in zip(faces.setdefault(id, ([], [])), (a, b), strict=True):
                    side.append(_surface(mask, z, axes))
        pause((z + 1) / labels_ZYX.shape[0])
    found = []
    for id in sorted(i for i in counts if sum(counts[i])):
        pause(1.0)
        ours, theirs = (np.concatenate(side) for side in faces.pop(id))
        apart = _distances(ours, theirs, labels_ZYX.shape, space)
        name = (names or {}).get(id, f"class {id}")
        tp, fp, fn = counts[id]
        found.append(Agreement(id, name, tp, fp, fn, *_judged(apart, tolerance), tolerance))
    return tuple(found)


def error_map(labels_ZYX: Any, reference_ZYX: Any, out: np.ndarray | None = None) -> np.ndarray:
    """uint8 (Z, Y, X): 0 background in both, else :data:`SAME`, :data:`ONLY_MASK`,
    :data:`ONLY_REFERENCE` or :data:`OTHER_CLASS`. ``out``: written to when given."""
    _check(labels_ZYX, reference_ZYX)
    result = np.zeros(labels_ZYX.shape, np.uint8) if out is None else out
    for z in range(len(result)):
        a, b = np.asarray(labels_ZYX[z]), np.asarray(reference_ZYX[z])
        mine, true = a > 0, b > 0
        kind = np.where(mine & true, np.where(a == b, SAME, OTHER_CLASS), 0)
        result[z] = kind + ONLY_MASK * (mine & ~true) + ONLY_REFERENCE * (true & ~mine)
    return result


def as_reference(labels_ZYX: Any, reference_ZYX: Any) -> tuple[Any, str]:
    """The reference as it is to be compared, and words about it.

    Binary masks write "yes" as 255 or 65535. Where one of the two does, and the other has another
    id for it, the id of the mask (of several the first class) is taken; nothing is copied.
    """
    of, only = _ids(reference_ZYX)
    to, single = _ids(labels_ZYX)
    mine = to if single else 1
    yes = of in BINARY or (single and to in BINARY)
    if not only or not yes or of == mine or not (single or _has(labels_ZYX, mine)):
        return reference_ZYX, ""
    if not single and _has(labels_ZYX, of):
        return reference_ZYX, ""
    words = f"{of} of the reference is compared as {mine}"
    return _Renumbered(reference_ZYX, of, mine), words


class _Renumbered:
    """A mask whose one id counts as another, read where it is asked for."""

    def __init__(self, ids_ZYX: Any, of: int, to: int) -> None:
        self._ids, self._of, self._to = ids_ZYX, of, to
        self.shape, self.dtype = tuple(ids_ZYX.shape), np.dtype(np.uint16)

    def __getitem__(self, at: Any) -> np.ndarray:
        return np.where(np.asarray(self._ids[at]) == self._of, self._to, 0).astype(self.dtype)


def _ids(ids_ZYX: Any) -> tuple[int, bool]:
    """The highest id, and whether it is the only one besides 0."""
    top = max(int(np.asarray(plane).max(initial=0)) for plane in ids_ZYX)
    planes = (np.asarray(plane) for plane in ids_ZYX)
    return top, top > 0 and all(bool(((p == 0) | (p == top)).all()) for p in planes)


def _has(ids_ZYX: Any, id: int) -> bool:
    return any(bool((np.asarray(plane) == id).any()) for plane in ids_ZYX)


def _check(labels_ZYX: Any, reference_ZYX: Any) -> None:
    shapes = tuple(labels_ZYX.shape), tuple(reference_ZYX.shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        raise InputError(
            f"mask is {shapes[0]} but the reference is {shapes[1]} (Z, Y, X); "
            "compare masks of the same image"
        )


def _blocks(a: Any, b: Any) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Some slices of both with a rim of one voxel around them, and the index of the first."""
    depth, n = block_depth(a.shape), a.shape[0]
    for z in range(0, n, depth):
        low, high = max(z - 1, 0), min(z + depth + 1, n)
        rim = (int(z == 0), int(z + depth >= n)), (1, 1), (1, 1)
        yield z, np.pad(np.asarray(a[low:high]), rim), np.pad(np.asarray(b[low:high]), rim)


def _count(counts: list[int], a: np.ndarray, b: np.ndarray) -> None:
    both, mine, true = (int(np.count_nonzero(m)) for m in (a & b, a, b))
    counts[0] += both
    counts[1] += mine - both
    counts[2] += true - both


def _surface(mask: np.ndarray, z: int, axes: tuple[int, ...]) -> np.ndarray:
    """Flat indices in the volume of the surface voxels of a block with a rim."""
    core = (slice(1, -1),) * 3
    inside = mask[core].copy()
    for axis in axes:
        for step in (slice(None, -2), slice(2, None)):
            inside &= mask[tuple(step if a == axis else s for a, s in enumerate(core))]
    return np.flatnonzero(mask[core] & ~inside) + z * inside[0].size


def _distances(
    ours: np.ndarray, theirs: np.ndarray, shape: tuple[int, ...], space: Space
) -> tuple[np.ndarray, np.ndarray] | None:
    """From every voxel of each surface to the other surface; ``None`` when one is absent."""
    if not len(ours) or not len(theirs):
        return None
    from scipy.spatial import KDTree

    found = []
    for of, to in ((ours, theirs), (theirs, ours)):
        apart = np.zeros(len(of))
        away = ~np.isin(of, to, assume_unique=True)
        if away.any():
            tree = KDTree(_places(to, shape, space))
            apart[away] = tree.query(_places(of[away], shape, space))[0]
        found.append(apart)
    return found[0], found[1]


def _places(flat: np.ndarray, shape: tuple[int, ...], space: Space) -> np.ndarray:
    return space.world(np.stack(np.unravel_index(flat, shape), 1))


def _judged(
    apart: tuple[np.ndarray, np.ndarray] | None, tolerance: float
) -> tuple[float | None, float]:
    """HD95 and surface Dice."""
    if apart is None:
        return None, 0.0
    hd95 = max(float(np.percentile(d, PERCENTILE)) for d in apart)
    near = sum(int(np.count_nonzero(d <= tolerance)) for d in apart)
    return hd95, near / sum(len(d) for d in apart)
