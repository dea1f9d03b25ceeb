"""With which weights one pixel takes from its neighbours in a refinement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_attnseg.models.guided import Guided
from napari_attnseg.refinement import Refinement


@dataclass(frozen=True)
class PixelWeights:
    """``weights`` of the neighbours at ``offsets`` (dy, dx; 0 outside the image), of the pixel
    itself (``centre``) and of the coarse map there (``residual``). Together they give 1."""

    offsets: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    centre: float
    residual: float


def weights_at(refinement: Refinement, guided: Guided, y: int, x: int) -> PixelWeights:
    """The weights of the first iteration at working pixel (y, x), as the refinement itself uses
    them: it is asked with one map per neighbour that is 1 there and 0 elsewhere.

    With an affinity per class: those of the first class.
    """
    alone = refinement._for_one()
    window, at = _around(guided.affinity, y, x, refinement.reach)
    affinity = guided.affinity[:, : len(alone.offsets)][window]
    attention = None if guided.attention is None else guided.attention[(slice(None), *window)]
    h, w = affinity.shape[-2:]
    places = [(at[0] + dy, at[1] + dx) for dy, dx in (*alone.offsets, (0, 0))]
    inside = [i for i, (r, c) in enumerate(places) if 0 <= r < h and 0 <= c < w]
    x_maps = affinity.new_zeros(1, len(places) + 1, h, w)
    for i in inside:
        x_maps[0, i, *places[i]] = 1
    coarse = torch.zeros_like(x_maps)
    coarse[0, -1, *at] = 1
    found: Tensor = alone._advance(coarse, affinity, attention)(x_maps, 0)
    *weights, centre, residual = found[0, :, *at].tolist()
    return PixelWeights(_pairs(alone), tuple(weights), centre, residual)


def _pairs(refinement: Refinement) -> tuple[tuple[int, int], ...]:
    return tuple((dy, dx) for dy, dx in refinement.offsets)


def _around(
    affinity: Tensor, y: int, x: int, reach: int
) -> tuple[tuple[slice, ...], tuple[int, int]]:
    """The window of a pixel's neighbours (batch and channels included) and its place there."""
    low = [max(0, n - reach) for n in (y, x)]
    rows, cols = (slice(a, n + reach + 1) for a, n in zip(low, (y, x), strict=True))
    return (slice(None), slice(None), rows, cols), (y - low[0], x - low[1])
