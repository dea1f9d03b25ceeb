"""From raw pixels to what the network saw in training; shared by training and prediction.

Legend: Z, Y, X = view axes of a volume; C = channels. A slice is (Y, X) or (Y, X, 3).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing

Limits = tuple[float, float]
SAMPLE = 2_000_000
"""Voxels looked at for the percentiles of a volume."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""


def channel_note(image_channels: int, wanted: int) -> str | None:
    """Say how an image of ``image_channels`` is given to a model of ``wanted`` channels.

    ``None`` when they agree. Raises ``InputError`` for combinations without a usual meaning.
    """
    if image_channels == wanted:
        return None
    if image_channels == 1 and wanted == 3:
        return "the model was trained on colour images; the grey image is repeated in 3 channels"
    if image_channels == 3 and wanted == 1:
        return "the model was trained on grey images; the colour image is used by its luminance"
    raise InputError(
        f"got an image of {image_channels} channels, expected {wanted}; "
        f"choose a model trained for {image_channels} channels"
    )


def to_channels(array: np.ndarray, rgb: bool, wanted: int) -> np.ndarray:
    """The array with the model's channels as last axis: (..., Y, X, C) float32."""
    channels = array.shape[-1] if rgb else 1
    channel_note(channels, wanted)
    data = np.asarray(array, np.float32)
    if not rgb:
        return np.repeat(data[..., None], wanted, -1)
    return data if wanted == channels else (data @ LUMA)[..., None]


def _subsample(volume: np.ndarray, rgb: bool) -> np.ndarray:
    """Every n-th voxel along each spatial axis, at most about :data:`SAMPLE` voxels."""
    shape = volume.shape[:3]
    step = max(1, int(np.ceil((np.prod(shape, dtype=float) / SAMPLE) ** (1 / 3))))
    steps = [min(step, max(1, n // 8)) for n in shape]
    return volume[:: steps[0], :: steps[1], :: steps[2]]


def nonfinite_note(volume: np.ndarray, rgb: bool) -> str | None:
    """Say that an image holds NaN or infinite pixels (looked for where percentiles are taken)."""
    if not np.issubdtype(volume.dtype, np.floating):
        return None
    sample = volume if volume.shape[0] == 1 else _subsample(volume, rgb)
    if np.isfinite(sample).all():
        return None
    return (
        "the image holds NaN or infinite pixels; NaN counts as the darkest value, infinities "
        "as the ends of the range"
    )


def intensity_limits(volume: np.ndarray, rgb: bool, p: Preprocessing) -> Limits:
    """Raw values that become 0 and 1, for a whole volume (Z, Y, X[, 3]) or a 2D image (Z = 1).

    Percentiles are taken over finite pixels: all of a 2D image, every n-th voxel of a volume.
    Raises ``InputError`` when no pixel is finite.
    """
    if p.intensity == "window":
        return float(p.low), float(p.high)
    if p.intensity == "unit":
        if np.issubdtype(volume.dtype, np.integer):
            return 0.0, float(np.iinfo(volume.dtype).max)
        return 0.0, 1.0
    sample = volume if volume.shape[0] == 1 else _subsample(volume, rgb)
    data = to_channels(sample, rgb, p.channels) if rgb else np.asarray(sample, np.float32)
    finite = data[np.isfinite(data)]
    if finite.size == 0:
        raise InputError(
            "got an image without a single finite pixel (all NaN or infinite); open another image"
        )
    low, high = np.percentile(finite, [p.low, p.high])
    return float(low), float(high)


def normalize(slice_: np.ndarray, rgb: bool, p: Preprocessing, limits: Limits) -> np.ndarray:
    """One slice (Y, X) or (Y, X, 3) as the network sees it: (C, Y, X) float32.

    Values become ``(v - low) / (high - low)``, clipped to [0, 1] unless ``intensity`` is
    ``"unit"``, then :func:`equalize` where it is wanted, then ``(v - mean) / std`` per channel.
    NaN counts as ``low``; infinities as the ends of the range.
    """
    low, high = limits
    data = to_channels(slice_, rgb, p.channels)
    span = high - low
    scaled = (data - low) / span if span > 0 else np.zeros_like(data)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0)
    if p.intensity != "unit":
        scaled = np.clip(scaled, 0.0, 1.0)
    if p.clahe_clip > 0:
        scaled = equalize(scaled, rgb, p.clahe_clip, p.clahe_tiles)
    mean = np.asarray(p.mean, np.float32)
    std = np.asarray(p.std, np.float32)
    out = ((scaled - mean) / std).transpose(2, 0, 1)
    return np.ascontiguousarray(out, dtype=np.float32)


def equalize(pixels: np.ndarray, rgb: bool, clip: float, tiles: int) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of (Y, X, C) float32 in [0, 1].

    Of a colour image the lightness L of Lab alone; of a grey one its values, in all channels
    alike. ``clip``: limit as a multiple of a histogram's mean bin; ``tiles`` along each side
    (Zuiderveld 1994; ``skimage.exposure.equalize_adapthist``). The lightness keeps its smallest
    and its largest value, so a constant image stays as it is and nothing leaves [0, 1].

    Raises:
        InputError: fewer than one tile.
    """
    if tiles < 1:
        raise InputError(f"got clahe_tiles={tiles}, expected at least 1 (8 is usual)")
    if not rgb or pixels.shape[-1] != 3:
        grey = _equalized(pixels[..., 0], clip, tiles)
        return np.repeat(grey[..., None], pixels.shape[-1], -1)
    from skimage.color import lab2rgb, rgb2lab

    lab = rgb2lab(np.clip(pixels, 0.0, 1.0))
    if np.ptp(lab[..., 0]) <= FLAT:
        return pixels
    lab[..., 0] = 100 * _equalized(lab[..., 0] / 100, clip, tiles)
    with warnings.catch_warnings():  # of colours that the new lightness leaves no room for
        warnings.simplefilter("ignore", UserWarning)
        return np.clip(lab2rgb(lab), 0.0, 1.0).astype(np.float32)


FLAT = 1e-4
"""Lightness (of 100) within which a colour image is constant but for rounding."""
LEVELS = 256
"""Bins of the histograms."""


def _equalized(plane: np.ndarray, clip: float, tiles: int) -> np.ndarray:
    """One channel, its range as before."""
    from skimage.exposure import equalize_adapthist

    low, high = float(plane.min()), float(plane.max())
    if high <= low:
        return plane
    kernel = [max(1, -(-n // tiles)) for n in plane.shape]
    unit = ((plane - low) / (high - low)).astype(np.float64)
    found = equalize_adapthist(unit, kernel, clip / LEVELS, LEVELS)
    return (low + found * (high - low)).astype(np.float32)


def working_size(
    shape: tuple[int, int], p: Preprocessing, spacing_mm: tuple[float, ...] = ()
) -> tuple[int, int]:
    """Rows and columns at which the network works on a slice of ``shape`` (Y, X).

    ``p.size`` gives a square; ``p.spacing_mm`` (its last two values: row, column) the size at
    which a slice of known ``spacing_mm`` has that spacing; otherwise the slice's own size.
    """
    if p.size:
        return p.size, p.size
    if p.spacing_mm and len(spacing_mm) >= 2:
        wanted, own = p.spacing_mm[-2:], spacing_mm[-2:]
        rows, cols = (max(1, round(n * o / w)) for n, o, w in zip(shape, own, wanted, strict=True))
        return rows, cols
    return shape


def resize(x_BCHW: torch.Tensor, size: tuple[int, int], antialias: bool) -> torch.Tensor:
    """Bilinear resize of (B, C, H, W) to ``size``; the same tensor when the size is right."""
    if tuple(x_BCHW.shape[-2:]) == tuple(size):
        return x_BCHW
    return F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False, antialias=antialias)
