"""Masks and probabilities of any origin as the coarse map of a refinement: signed logits.

A mask m in [0, 1] becomes ``k (2m - 1)`` and a probability its logit, both within +-k: without a
negative background no propagation that keeps constants could ever take a pixel back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from napari_attnseg.engine.preprocess import resize
from napari_attnseg.errors import InputError
from napari_attnseg.models.refined import LIMIT

KINDS = ("labels", "probability")


def slice_of(
    array: np.ndarray, z: int, shape: tuple[int, int, int], what: str, advice: str
) -> np.ndarray:
    """Slice ``z`` (Y, X) of an array that must have the ``shape`` of the image, copied.

    Raises ``InputError``: got / expected / ``advice``.
    """
    if array.shape != shape:
        raise InputError(
            f"got {what} of {_size(array.shape)}, expected {_size(shape)} as the image has; "
            f"{advice}"
        )
    return np.array(array[z])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def digest(slice_YX: np.ndarray, kind: str) -> str:
    """Names a coarse slice by its content."""
    found = hashlib.blake2b(np.ascontiguousarray(slice_YX).data, digest_size=16)
    found.update(f"{kind} {slice_YX.dtype} {slice_YX.shape}".encode())
    return found.hexdigest()


def coarse_logits(
    slice_YX: np.ndarray,
    kind: str,
    channels: int,
    size: tuple[int, int],
    stand: Callable[[np.ndarray], np.ndarray] = lambda a: a,
) -> torch.Tensor:
    """A coarse slice as the model's logits (1, ``channels``, *size*) within +-``LIMIT``.

    ``kind`` ``"labels"``: class ids; a model of one channel takes every id but 0 as foreground.
    ``"probability"``: of foreground, in [0, 1]; for models of one or two channels. ``stand``
    brings the slice into the standing of training. Raises ``InputError``.
    """
    if kind not in KINDS:
        raise InputError(f"got coarse map of kind {kind!r}, expected {' or '.join(KINDS)}")
    read = _masks if kind == "labels" else _probability
    maps = read(slice_YX, channels)
    part = np.stack([stand(m) for m in maps])
    x = resize(torch.from_numpy(part)[None], size, antialias=True).clamp_(0, 1)
    if kind == "labels":
        return LIMIT * (2 * x - 1)
    logit = torch.logit(x, 1e-6).clamp(-LIMIT, LIMIT)
    return logit if channels == 1 else torch.cat([-logit / 2, logit / 2], 1)


def _masks(ids: np.ndarray, channels: int) -> np.ndarray:
    """Class ids as one mask per channel, float32 (channels, Y, X)."""
    if ids.dtype.kind not in "biu":
        raise InputError(
            f"got labels of type {ids.dtype}, expected whole numbers; choose a labels layer, or "
            "take the layer as a probability"
        )
    if channels == 1:
        return (ids > 0).astype(np.float32)[None]
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= channels:
        raise InputError(
            f"got labels with ids from {low} to {high}, expected 0 to {channels - 1}, the classes "
            "of this model; choose labels of its classes"
        )
    return np.stack([ids == k for k in range(channels)]).astype(np.float32)


def _probability(values: np.ndarray, channels: int) -> np.ndarray:
    """Foreground probability, float32 (1, Y, X)."""
    if channels > 2:
        raise InputError(
            f"got one probability map, but this model tells {channels} classes apart; "
            "choose a labels layer with their ids"
        )
    found = np.nan_to_num(np.asarray(values, np.float32), nan=0.0)
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise InputError(
            f"got values from {low:.3g} to {high:.3g}, expected a probability from 0 to 1; "
            "choose a probability layer, or take the layer as labels"
        )
    return found[None]
