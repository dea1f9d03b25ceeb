"""How a user's strokes are carried on along the learned affinity.

Legend: B = batch, K = maps (classes) as signed logits, N = spatial axes (H, W or D, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.base import Anchors, Refinement
from napari_attnseg.refinement.neighbours import Offset
from napari_attnseg.refinement.stencil import add_neighbours, weight_sum

REACH = 48
"""Iterations of the correction, which is also how many pixels it can go."""
Window = tuple[slice, ...]


def carry(
    logits_BKN: Tensor,
    affinity: Tensor,
    attention: Tensor | None,
    refinement: Refinement,
    anchors: Anchors,
    *,
    answer: Tensor | None = None,
) -> Tensor:
    """Refined logits (B, K, N) in which strokes are held and carried on to their neighbours.

    ``logits_BKN``, ``affinity``, ``attention``: as ``refinement.refine`` takes them.
    ``anchors``: the strokes; a weight of 1 holds a pixel exactly, 0 leaves it free.
    ``answer``: what ``refinement.refine`` gives without strokes, where the caller has it.
    Without strokes the answer is that of the refinement, bit for bit. A pure function: the
    same strokes give the same bits, in whichever order they were painted or taken back.
    """
    if answer is None:
        answer = refinement.refine(logits_BKN, affinity, attention)
    _check(answer, anchors)
    window = _window(anchors.weight, REACH)
    if window is None:
        return answer.clone()
    out = answer.clone()
    here = anchors.part(window)
    near = refinement.rings[0]
    out[window] += _spread(affinity[window], near, here, answer[window])
    out[window] = here.hold(out[window])
    return out


def _check(answer: Tensor, anchors: Anchors) -> None:
    expected = (answer.shape[0], 1, *answer.shape[2:])
    if tuple(anchors.weight.shape) != expected or anchors.logits.shape != answer.shape:
        raise InputError(
            f"got strokes of shape {tuple(anchors.weight.shape)} and "
            f"{tuple(anchors.logits.shape)}, expected {expected} and {tuple(answer.shape)}"
        )


def _window(weight: Tensor, reach: int) -> Window | None:
    """The box of all strokes and ``reach`` pixels around it; ``None`` without strokes."""
    places = weight.amax((0, 1)).nonzero()
    if not len(places):
        return None
    low, high = places.amin(0).tolist(), places.amax(0).tolist()
    around = (slice(max(0, a - reach), b + reach + 1) for a, b in zip(low, high, strict=True))
    return (slice(None), slice(None), *around)


def _spread(affinity: Tensor, near: tuple[Offset, ...], anchors: Anchors, answer: Tensor) -> Tensor:
    """The correction everywhere: what strokes change where they are, diffused among ``near``."""
    weights = affinity[:, : len(near)]
    share = weights.clamp_min(0) / (weight_sum(weights, near, absolute=True) + 1e-8)
    change = anchors.weight * (anchors.logits - answer)
    free = (1 - anchors.weight) * 1.0
    x = change
    for _ in range(REACH):
        x = add_neighbours(torch.zeros_like(x), share, x, near).mul_(free).add_(change)
    return x - change
