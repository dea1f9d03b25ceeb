"""Put a mask into its image's voxels where both lie on one grid: turned, shifted or a part of it.

Nothing is interpolated: every voxel of the mask is one of the image, or the mask is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.volume import Volume

OFF = 0.05
"""Share of a voxel that corners may lie apart: what rounding in headers costs."""


def on_grid(mask: Volume, image: Volume) -> Volume:
    """``mask`` with the shape, the affine and the file order of ``image``; blank where it has
    nothing. Raises ``InputError`` when a drawn voxel of it is none of the image's."""
    ours, theirs = mask.geometry, image.geometry
    if ours is None or theirs is None or ours.same_space(theirs):
        return mask
    step = np.linalg.solve(theirs.affine, ours.affine)
    order = np.abs(step[:3, :3]).argmax(axis=0)  # image axis behind each axis of the mask
    whole = np.rint(step)
    last = np.array(ours.shape) - 1
    apart = np.abs(step - whole) @ np.array([*last, 1.0])
    if sorted(order) != [0, 1, 2] or np.abs(whole[:3, :3]).sum() != 3 or apart.max() > OFF:
        raise InputError(
            f"{_name(mask)} lies on another grid than its image (other voxel size, direction or "
            "place); resample it to the image first (3D Slicer and dcmqi do)"
        )
    data = _laid(mask, theirs.shape, order, whole)
    flat = image.data.ndim - int(image.rgb) == 2
    space = Geometry(theirs.affine, theirs.shape, theirs.qform_code, theirs.sform_code, theirs.axes)
    return replace(mask, data=data[:, :, 0] if flat else data, geometry=space)


def _laid(
    mask: Volume, shape: tuple[int, int, int], order: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """The voxels of the mask in a new array of the image's file order."""
    assert mask.geometry is not None
    turned = mask.data.reshape(mask.geometry.shape).transpose(np.argsort(order))
    there, taken = [], []
    for axis, mine in enumerate(np.argsort(order)):
        sign, start, count = int(whole[axis, mine]), int(whole[axis, 3]), turned.shape[axis]
        if sign < 0:
            turned, start = np.flip(turned, axis), start - (count - 1)
        low, high = max(start, 0), max(min(start + count, shape[axis]), max(start, 0))
        there.append(slice(low, high))
        taken.append(slice(low - start, high - start))
    kept = turned[tuple(taken)]
    lost = int(np.count_nonzero(turned)) - int(np.count_nonzero(kept))
    if lost:  # what is drawn there would be gone without a word
        raise InputError(
            f"{_name(mask)} marks {lost:,} voxels outside of its image; take the image that it was "
            "drawn on"
        )
    data = np.zeros(shape, mask.data.dtype)
    data[tuple(there)] = kept
    return data


def _name(mask: Volume) -> str:
    return mask.path.name if mask.path else "the mask"
