"""How much of an image each class covers, in pixels and, where their size is known, in mm."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.layers import METADATA

if TYPE_CHECKING:
    from napari.layers import Layer

LABELS = 256
"""Class ids are uint8."""


FEW_CLASSES = 12
"""Up to here one look per class is quicker than a histogram, which first makes wide integers."""


def counts_of(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Pixels per class id, (256,), of one slice."""
    labels = np.asarray(labels)
    top = int(labels.max(initial=0))
    if top > FEW_CLASSES:
        return np.bincount(labels.ravel(), minlength=LABELS)[:LABELS]
    counts = np.zeros(LABELS, np.int64)
    for i in range(1, top + 1):
        counts[i] = np.count_nonzero(labels == i)
    counts[0] = labels.size - counts.sum()
    return counts


def pixel_mm(layer: Layer) -> float | None:
    """Size of one pixel of ``layer``: mm^2 of an image, mm^3 of a volume; ``None``: not known.

    Known are files that carry a spacing, and layers whose scale has a unit of length.
    """
    entry = layer.metadata.get(METADATA)
    volume = entry.get("volume") if isinstance(entry, dict) else None
    if volume is not None:
        return float(np.prod(volume.spacing_mm[-layer.ndim :])) if volume.spacing_mm else None
    sides = []
    for scale, unit in zip(layer.scale, layer.units, strict=True):
        with contextlib.suppress(Exception):  # a unit that is no length
            sides.append(abs(float((float(scale) * unit).to("millimeter").magnitude)))
    return float(np.prod(sides)) if len(sides) == layer.ndim else None


def size_words(pixels: int, one_mm: float | None, ndim: int) -> str:
    """``"12.3 ml"``, ``"45 mm²"`` or ``"310 µm²"``; pixels where their size is not known.

    ``one_mm``: size of one pixel in mm^ndim.
    """
    if one_mm is None:
        return f"{pixels:,} px"
    size, power = pixels * one_mm, "²" if ndim == 2 else "³"
    if ndim == 3 and size >= 100.0:
        return f"{_digits(size / 1000.0)} ml"
    if 0 < size < 0.01:
        return f"{_digits(size * 1000.0**ndim)} µm{power}"
    return f"{_digits(size)} mm{power}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
