"""Split a mask into objects: connected components, optionally a distance watershed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import watershed as flood

from napari_attnseg.errors import InputError
from napari_attnseg.io.components import Block, Walk

MAX_OBJECTS = 65535


def split_objects(
    labels_ZYX: np.ndarray,
    watershed: bool = False,
    min_distance: int = 5,
    min_size: int = 0,
    spacing_mm: tuple[float, ...] = (),
) -> tuple[np.ndarray, int]:
    """Number the objects of class labels (Z, Y, X): (ids uint16, count).

    An object is a set of equal labels that touch by faces, edges or corners (8 neighbours in 2D,
    26 in 3D). ``watershed`` splits touching objects along the narrow places: seeds are the
    maxima of the distance to the border, at least ``min_distance`` voxels apart; ``spacing_mm``
    makes the distance a true one. Objects of fewer than ``min_size`` voxels are dropped.
    Ids run from 1 in the order of their first voxel. Raises ``InputError`` for more than 65535
    objects.
    """
    labels = np.asarray(labels_ZYX)
    if labels.ndim != 3:
        raise InputError(f"got labels of shape {labels.shape}; expected the axes (Z, Y, X)")
    if not watershed:
        return _numbered(labels, min_size)
    flat = len(labels) == 1
    work = labels[0] if flat else labels
    ids = label(work, background=0, connectivity=work.ndim)
    if ids.any():
        ids = _split(work, ids, min_distance, spacing_mm[-work.ndim :])
    ids, count = _compact(ids, min_size)
    _check_count(count)
    ids = ids.astype(np.uint16)
    return (ids[None] if flat else ids), count


def _numbered(labels: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
    """Parts as they are, a block of slices at a time: besides the mask and the ids memory is that
    of a block."""
    ids, walk = np.zeros(labels.shape, np.uint16), Walk(labels)
    found = [_sizes_and_firsts(block, labels.shape) for block in walk]
    if not found:
        return ids, 0
    sizes, firsts = (np.concatenate(values) for values in zip(*found, strict=True))
    of, count = walk.whole()
    size, first = np.zeros(count, np.int64), np.full(count, labels.size)
    np.add.at(size, of, sizes)
    np.minimum.at(first, of, firsts)
    kept = np.flatnonzero(size >= max(min_size, 1))
    _check_count(len(kept))
    rank = np.zeros(count, np.uint16)
    rank[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    for block in walk:
        own = block.parts[block.own, 1:-1, 1:-1]
        seen = own > 0
        block.inside(ids)[seen] = rank[of[own[seen] - 1 + block.first]]
    return ids, len(kept)


def _sizes_and_firsts(block: Block, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of every part of a block its voxels, and its first one (a flat index of the volume)."""
    own = block.parts[block.own, 1:-1, 1:-1]
    parts, at, sizes = np.unique(own, return_index=True, return_counts=True)
    z, y, x = np.unravel_index(at, own.shape)
    flat = ((z + block.z) * shape[1] + y + block.y) * shape[2] + x + block.x
    size, first = np.zeros(block.count + 1, np.int64), np.full(block.count + 1, np.prod(shape))
    size[parts], first[parts] = sizes, flat
    return size[1:], first[1:]


def _check_count(count: int) -> None:
    if count > MAX_OBJECTS:
        raise InputError(
            f"got {count} objects, expected at most {MAX_OBJECTS}; raise the smallest size "
            "or smooth the mask first"
        )


def _split(
    labels: np.ndarray, ids: np.ndarray, min_distance: int, spacing: tuple[float, ...]
) -> np.ndarray:
    """Flood from the distance maxima of every component; one without a maximum keeps itself."""
    distance = np.zeros(labels.shape, np.float32)
    for value in np.unique(labels[labels > 0]):
        inside = np.pad(labels == value, 1)  # the image's border is a border of the object
        depth = ndimage.distance_transform_edt(inside, sampling=spacing or None)
        core = tuple(slice(1, -1) for _ in labels.shape)
        distance = np.maximum(distance, np.where(labels == value, depth[core], 0))
    peaks = peak_local_max(
        distance, min_distance=max(1, min_distance), labels=ids, exclude_border=False
    )
    seeds = np.zeros(ids.shape, np.int64)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    lonely = np.setdiff1d(np.unique(ids[ids > 0]), ids[tuple(peaks.T)])
    rest = np.isin(ids, lonely)
    seeds[rest] = ids[rest] + len(peaks)
    split = np.zeros_like(seeds)
    for value in np.unique(labels[labels > 0]):  # classes never flow into each other
        here = labels == value
        split[here] = flood(-distance, np.where(here, seeds, 0), mask=here)[here]
    return split


def _compact(ids: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
    """Drop small objects and number the rest 1..n in the order of their first voxel."""
    values, first, inverse, sizes = np.unique(
        ids, return_index=True, return_inverse=True, return_counts=True
    )
    keep = (values > 0) & (sizes >= min_size)
    rank = np.zeros(len(values), np.int64)
    kept = np.flatnonzero(keep)
    rank[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1)
    return rank[inverse].reshape(ids.shape), len(kept)
