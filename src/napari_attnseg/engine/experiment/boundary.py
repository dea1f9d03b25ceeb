"""Boundary IoU: the IoU of the pixels near the contours (Cheng et al., CVPR 2021).

The plain IoU of a large object hardly notices its outline, and an outline is what a refinement
moves. ``(G_d and G) / (P_d and P)``: the pixels of a mask within ``d`` of its contour, from inside.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_cdt

from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.metrics import Counts, count

SHARE = 0.02
"""``d`` as a part of the image's diagonal, as in the paper."""


def width(shape: tuple[int, ...]) -> int:
    """``d`` in pixels for an image (Y, X), 1 at least."""
    return max(1, round(SHARE * math.hypot(*shape)))


def band(labels: np.ndarray, d: int) -> np.ndarray:
    """Ids (Y, X) with every pixel cleared that is farther than ``d`` (Chebyshev) from the outside
    of its class; outside the image is outside of every class."""
    out = np.zeros(labels.shape, np.uint8)
    for value in np.unique(labels[labels > 0]):
        inside = np.pad(labels == value, 1)
        depth = distance_transform_cdt(inside, "chessboard")[1:-1, 1:-1]
        out[(depth > 0) & (depth <= d)] = value
    return out


def count_bands(labels: np.ndarray, target: np.ndarray, classes: int) -> Counts:
    """Agreement of the bands of a mask (Y, X) and of a target. Unknown pixels are taken as the
    mask has them when the target's contours are drawn, and do not count afterwards."""
    d, known = width(labels.shape), target != IGNORE
    reference = band(np.where(known, target, labels), d)
    return count(band(labels, d)[known], reference[known], classes)
