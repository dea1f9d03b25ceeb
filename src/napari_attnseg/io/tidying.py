"""Two steps after a mask: keep the largest part of each class, and fill holes.

Pure functions of a mask, a block of slices at a time; the mask given is never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from napari_attnseg.io.components import Block, Walk

KEEP_LARGEST, FILL_2D, FILL_3D = "keep_largest", "fill_holes_2d", "fill_holes_3d"
"""Names of the steps in provenance and journal."""
Pause = Callable[[], object]


def keep_largest(
    labels_ZYX: Any, pause: Pause = lambda: None, only: int | None = None
) -> np.ndarray:
    """Of every class only its largest connected part (8 or 26 neighbours) stays, of equal ones
    the first; the rest becomes background. ``only``: leave all other classes as they are (of two
    kidneys in one class one would go). Returns a new array of the same type."""
    result = np.array(labels_ZYX)
    walk = Walk(labels_ZYX)
    ids, sizes = [], []
    for block in walk:
        id, n = _ids_and_sizes(block)
        ids.append(id)
        sizes.append(n)
        pause()
    if not ids:
        return result
    of, count = walk.whole()
    size = np.bincount(of, np.concatenate(sizes), minlength=count)
    id_of = np.zeros(count, np.int64)
    id_of[of] = np.concatenate(ids)
    order = np.lexsort((np.arange(count), -size, id_of))
    kept = np.zeros(count, bool)
    kept[order[np.unique(id_of[order], return_index=True)[1]]] = True
    if only is not None:
        kept |= id_of != only
    for block in walk:
        part = block.parts[block.own, 1:-1, 1:-1]
        gone = part > 0
        gone[gone] = ~kept[of[part[gone] - 1 + block.first]]
        _inside(result, block)[gone] = 0
        pause()
    return result


def fill_holes(labels_ZYX: Any, per_slice: bool = False, pause: Pause = lambda: None) -> np.ndarray:
    """Background that a class encloses becomes that class; other classes stay as they are.

    Enclosed is what cannot reach the image's end over faces without crossing the class: in 3D, or
    with ``per_slice`` (and in a picture) within each slice. Where one class encloses another that
    encloses the hole, the inner one takes it. Returns a new array of the same type.
    """
    result = np.array(labels_ZYX)
    for id in _inner_first(result):
        if per_slice or len(result) == 1:
            _fill_slices(result, id, pause)
        else:
            _fill_volume(result, id, pause)
    return result


def tidy(labels_ZYX: Any, steps: tuple[str, ...], pause: Pause = lambda: None) -> np.ndarray:
    """The named steps one after the other."""
    for step in steps:
        if step == KEEP_LARGEST:
            labels_ZYX = keep_largest(labels_ZYX, pause)
        else:
            labels_ZYX = fill_holes(labels_ZYX, step == FILL_2D, pause)
    return np.asarray(labels_ZYX)


def tidied(labels_ZYX: np.ndarray, steps: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """:func:`tidy`, and a line per step on how many voxels it changed."""
    lines = []
    for step in steps:
        before, labels_ZYX = labels_ZYX, tidy(labels_ZYX, (step,))
        changed = sum(
            int(np.count_nonzero(a != b)) for a, b in zip(before, labels_ZYX, strict=True)
        )
        lines.append(f"{step.replace('_', ' ')}: {changed:,} voxels changed")
    return labels_ZYX, lines


def _ids_and_sizes(block: Block) -> tuple[np.ndarray, np.ndarray]:
    id = np.zeros(block.count + 1, np.int64)
    id[block.parts.reshape(-1)] = block.labels.reshape(-1)
    own = block.parts[block.own]
    return id[1:], np.bincount(own.reshape(-1), minlength=block.count + 1)[1:]


def _inside(volume: np.ndarray, block: Block) -> np.ndarray:
    """The block's own voxels of a volume, without rim, as a view."""
    n, y, x = block.parts[block.own, 1:-1, 1:-1].shape
    return volume[block.z : block.z + n, block.y : block.y + y, block.x : block.x + x]


def _inner_first(labels: np.ndarray) -> list[int]:
    """Classes by the size of their box: what lies inside another has the smaller one."""
    low: dict[int, np.ndarray] = {}
    high: dict[int, np.ndarray] = {}
    for z, plane in enumerate(labels):
        for id in np.unique(plane):
            y, x = (np.flatnonzero((plane == id).any(axis=a)) for a in (1, 0))
            first, last = np.array([z, y[0], x[0]]), np.array([z, y[-1], x[-1]])
            low[int(id)] = np.minimum(low.get(int(id), first), first)
            high[int(id)] = np.maximum(high.get(int(id), last), last)
    return sorted((i for i in low if i), key=lambda i: (np.prod(high[i] - low[i] + 1), i))


def _fill_slices(labels: np.ndarray, id: int, pause: Pause) -> None:
    from scipy.ndimage import binary_fill_holes

    for plane in labels:
        mask = plane == id
        if mask.any():
            plane[binary_fill_holes(mask) & (plane == 0)] = id
        pause()


def _fill_volume(labels: np.ndarray, id: int, pause: Pause) -> None:
    """Parts of all that is not the class, over faces; those that reach no end are enclosed."""
    walk = Walk(labels, faces=True, look=lambda part: np.asarray(part != id))
    open_: list[np.ndarray] = []
    for block in walk:
        reached = np.zeros(block.count + 1, bool)
        for face in _ends(block, labels.shape):
            reached[face.reshape(-1)] = True
        open_.append(reached[1:])
        pause()
    if not open_:
        return
    of, count = walk.whole()
    outside = np.bincount(of, np.concatenate(open_), minlength=count) > 0
    if outside.all():
        return
    for block in walk:
        part = block.parts[block.own, 1:-1, 1:-1]
        hole = part > 0
        hole[hole] = ~outside[of[part[hole] - 1 + block.first]]
        view = _inside(labels, block)
        view[hole & (view == 0)] = id
        pause()


def _ends(block: Block, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The block's faces that are ends of the volume."""
    parts = block.parts[block.own, 1:-1, 1:-1]
    found = []
    for axis, start in enumerate((block.z, block.y, block.x)):
        if start == 0:
            found.append(parts.take(0, axis))
        if start + parts.shape[axis] == shape[axis]:
            found.append(parts.take(-1, axis))
    return found
