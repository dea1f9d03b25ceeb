"""Raw pixels to what the network sees: one owner, shared by training and prediction.

Order: upright standing, channels, intensity, ``(x - mean) / std``, working size. Every step is
stored in :class:`~napari_attnseg.settings.Preprocessing`, so a checkpoint repeats it exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing

LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)
"""Rec. 601 weights of red, green and blue in a grey image."""

MAX_SAMPLES = 1_000_000
"""Percentiles of a volume are taken from at most about this many evenly spaced pixels."""

Limits = tuple[float, float]
Flips = tuple[bool, bool, bool]


def upright(plane: np.ndarray, flips: Flips) -> np.ndarray:
    """A slice (Y, X[, C]) turned to stand as in training: row down = P, column right = L.

    Its own inverse. A view, no copy; ``flips[0]`` (the order of slices) does not matter here.
    """
    rows = slice(None, None, -1) if flips[1] else slice(None)
    columns = slice(None, None, -1) if flips[2] else slice(None)
    return plane[rows, columns]


def channel_note(have: int, want: int) -> str:
    """What happens to an image of ``have`` channels in a model for ``want``; "" when nothing.

    Raises:
        InputError: no sensible conversion exists.
    """
    if have == want:
        return ""
    if have == 1:
        return f"the image is grey and the model wants {want} channels: grey is repeated"
    if have == 3 and want == 1:
        return "the image has colours and the model wants grey: its luminance is used"
    raise InputError(
        f"got an image of {have} channels, expected {want}; choose a model trained on such images"
    )


def to_channels(plane: np.ndarray, channels: int) -> np.ndarray:
    """(Y, X) or (Y, X, C) in raw units to float32 (channels, Y, X); NaN becomes 0."""
    pixels = np.nan_to_num(np.asarray(plane, np.float32))
    stack = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    channel_note(len(stack), channels)
    if len(stack) == channels:
        return np.ascontiguousarray(stack)
    if len(stack) == 1:
        return np.repeat(stack, channels, axis=0)
    return np.tensordot(LUMINANCE, stack, axes=1)[None].astype(np.float32)


def unit_maximum(dtype: np.dtype) -> float:
    """What "full scale" means for a pixel type: 255 for uint8, 1 for floats and booleans."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def limits_of(view: np.ndarray, pre: Preprocessing) -> Limits:
    """Raw values that become 0 and 1, for a whole image or volume (Z, Y, X[, C]).

    Percentiles come from all pixels of a small volume and from an even subset of a large one,
    so every slice of a volume shares one scale.
    """
    if pre.intensity == "unit":
        return 0.0, unit_maximum(view.dtype)
    if pre.intensity == "window":
        return float(pre.low), float(pre.high)
    jump = max(1, round((view.size / MAX_SAMPLES) ** (1 / 3)))
    sample = view[:: jump if len(view) > 1 else 1, ::jump, ::jump]
    grey = np.stack([to_channels(plane, pre.channels) for plane in sample])
    low, high = np.percentile(grey, (pre.low, pre.high))
    return float(low), float(high)


def normalise(pixels: np.ndarray, pre: Preprocessing, limits: Limits) -> np.ndarray:
    """float32 (C, Y, X) in raw units to network units; a flat image becomes 0 before mean/std."""
    low, high = limits
    scaled = (pixels - np.float32(low)) / np.float32((high - low) or 1.0)
    if pre.intensity != "unit":
        scaled = scaled.clip(0, 1)
    mean = np.asarray(pre.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(pre.std, np.float32).reshape(-1, 1, 1)
    return ((scaled - mean) / std).astype(np.float32)


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) resampled bilinearly to ``size`` = (rows, columns); the identity if equal."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=False)


def prepare(
    plane: np.ndarray, pre: Preprocessing, limits: Limits, flips: Flips = (False, False, False)
) -> torch.Tensor:
    """A raw slice (Y, X[, C]) in view order to the network's input (1, C, h, w)."""
    pixels = to_channels(upright(plane, flips), pre.channels)
    x = torch.from_numpy(normalise(pixels, pre, limits))[None]
    return resize(x, (pre.size, pre.size)) if pre.size else x
