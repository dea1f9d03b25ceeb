"""Split a mask into objects: connected components, optionally a distance watershed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import watershed as flood

from napari_attnseg.errors import InputError

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
    flat = len(labels) == 1
    work = labels[0] if flat else labels
    ids = label(work, background=0, connectivity=work.ndim)
    if watershed and ids.any():
        ids = _split(work, ids, min_distance, spacing_mm[-work.ndim :])
    ids, count = _compact(ids, min_size)
    if count > MAX_OBJECTS:
        raise InputError(
            f"got {count} objects, expected at most {MAX_OBJECTS}; raise the smallest size "
            "or smooth the mask first"
        )
    ids = ids.astype(np.uint16)
    return (ids[None] if flat else ids), count


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
