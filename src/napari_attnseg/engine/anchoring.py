"""Strokes that a person painted, as anchors of a refinement.

In a strokes array 0 is free, 1 is background and k + 1 is class k (as in a layer to train from).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.models.refined import LIMIT
from napari_attnseg.refinement import Anchors

Box = tuple[slice, slice]


def check_strokes(strokes: np.ndarray, channels: int) -> None:
    """Raise ``InputError`` for a class that the model does not know."""
    classes = max(channels, 2)
    top = int(strokes.max(initial=0))
    if top > classes:
        raise InputError(
            f"got strokes with label {top}, expected at most {classes} (1 = background, 2 = the "
            "first class, ...); paint with another label"
        )


def at_working_size(strokes_YX: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Strokes (Y, X) on a grid of another ``size``: uint8.

    A cell is held when any of its pixels is painted, by the class with most of them there (of
    equals the smaller), so that a thin line is never lost.
    """
    if strokes_YX.shape == size:
        return strokes_YX
    classes = [int(c) for c in np.unique(strokes_YX) if c]
    if not classes:
        return np.zeros(size, np.uint8)
    masks = torch.stack([torch.from_numpy(strokes_YX == c).float() for c in classes])
    share, best = F.adaptive_avg_pool2d(masks[None], size)[0].max(0)
    found = torch.tensor(classes, dtype=torch.uint8)[best]
    return torch.where(share > 0, found, 0).to(torch.uint8).numpy()


def held_logits(channels: int) -> torch.Tensor:
    """What each stroke label holds: (labels, channels); label 0 holds nothing."""
    if channels == 1:
        return torch.tensor([[0.0], [-LIMIT], [LIMIT]])
    own = 2 * LIMIT * torch.eye(channels) - LIMIT
    return torch.cat([torch.zeros(1, channels), own])


def anchors(strokes_N: np.ndarray, channels: int, strength: float, device: torch.device) -> Anchors:
    """Anchors (1, K, N) of strokes at working size, of a slice or of several (Z, H, W);
    ``strength`` is their weight."""
    ids = torch.from_numpy(np.ascontiguousarray(strokes_N)).long()
    logits = held_logits(channels)[ids].movedim(-1, 0)[None].contiguous()
    weight = (ids > 0).float()[None, None] * strength
    return Anchors(logits.to(device), weight.to(device))


def changed_box(before: np.ndarray, after: np.ndarray) -> Box | None:
    """The smallest window in which two stacks (Z, H, W) differ; ``None`` when nowhere."""
    differs = (before != after).any(0)
    rows, cols = differs.any(1), differs.any(0)
    if not rows.any():
        return None
    (y0, y1), (x0, x1) = ((int(v.argmax()), len(v) - int(v[::-1].argmax())) for v in (rows, cols))
    return slice(y0, y1), slice(x0, x1)


def grown(box: Box, by: int, shape: tuple[int, int]) -> Box:
    """A window and ``by`` pixels around it, inside ``shape``."""
    rows, cols = (
        slice(max(0, s.start - by), min(n, s.stop + by)) for s, n in zip(box, shape, strict=True)
    )
    return rows, cols


def hold_pixels(
    strokes_YX: np.ndarray, labels: np.ndarray, probability: np.ndarray, channels: int
) -> None:
    """Give painted pixels their class, in place, whatever the cut and the working size are."""
    painted = strokes_YX > 0
    ids = strokes_YX[painted] - 1
    labels[painted] = ids
    span = LIMIT if channels == 1 else 2 * LIMIT
    probability[painted] = np.where(ids > 0, 1.0, -1.0) * span
    probability[painted] = 1 / (1 + np.exp(-probability[painted]))
