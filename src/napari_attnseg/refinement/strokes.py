"""How a user's strokes are carried on along the learned affinity.

Re-injecting strokes in each of T iterations, as CSPN does with sparse depth, moves nothing beyond
T pixels, and the residual weight on the coarse map pulls back even there. So it is not the answer
that is propagated again here but the *correction*: by how much the strokes differ from the answer
``R`` (the refined one, or what ``likeness.adapt`` made of it) where they are painted. With ``w``
the weight of the strokes, ``l`` what they hold, ``a_k`` the raw affinity of the inner ring
(neighbours outside left out):

- ``c = gain (l - R)``, ``s_k = |a_k| / ((1 + loss) sum_k |a_k| + eps)``
- ``d_0 = w c``, ``d_{t+1}(p) = (1 - w(p)) sum_k s_k(p) d_t(p + o_k) + w(p) c(p)``
- answer: ``R + d_reach`` where nothing is painted, ``l`` where the weight is 1; between,
  ``R + w (l - R)`` and what arrives from neighbours, without the gain.

This is a random walker (Grady 2006) whose edge weights are learned: the walk stops at a stroke and
takes its correction, or is lost with probability loss / (1 + loss) per step and takes none. Weights
are not negative, so corrections never overshoot; the model's answer needs no seeds of its own and
resists by its logit. Of a negative affinity the size counts (leaving negative ones out came to
the same in trials on training images). A gain above 1 lets a stroke prevail over an answer that is
as sure as the stroke: with 1 such an answer turns only where half of the correction arrives.

After ``reach`` steps nothing further than so many pixels is touched, so this walk is done in a
window, exact.

Legend: B = batch, K = maps (classes) as signed logits, N = spatial axes (H, W or D, H, W).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.anchors import Anchors, one_by_one
from napari_attnseg.refinement.base import Refinement
from napari_attnseg.refinement.neighbours import Offset
from napari_attnseg.refinement.stencil import add_neighbours, weight_sum


class Walk(NamedTuple):
    """How corrections go: ``reach``, iterations and so pixels; ``gain``, how much stronger a stroke
    pulls its neighbours than itself; ``loss`` in every step, as a share of the affinity."""

    reach: int
    gain: float
    loss: float


FAR = Walk(48, 1.5, 0.05)
"""Where strokes reach pixels through the affinity alone, as in other slices."""
SHORT = Walk(12, 1.0, 0.5)
"""Where the answer has been told of the strokes by ``likeness.adapt``: what is left to do is near
them."""
EPS = 1e-8
Window = tuple[slice, ...]
Box = tuple[tuple[int, int], ...]


def carry(
    logits_BKN: Tensor,
    affinity: Tensor,
    attention: Tensor | None,
    refinement: Refinement,
    anchors: Anchors,
    *,
    answer: Tensor | None = None,
    walk: Walk | None = None,
) -> Tensor:
    """Refined logits (B, K, N) in which strokes are held and carried on to their neighbours.

    ``logits_BKN``, ``affinity``, ``attention``: as ``refinement.refine`` takes them (a volume:
    with a refinement through its slices, whose neighbours across carry strokes on too).
    ``anchors``: the strokes; a weight of 1 holds a pixel exactly, 0 leaves it free.
    ``answer``: what ``refinement.refine`` gives without strokes, where the caller has it, or that
    and what ``likeness.adapt`` made of it. ``walk``: default :data:`FAR`.
    Without strokes the answer is that of the refinement, bit for bit. A pure function: the
    same strokes give the same bits, in whichever order they were painted or taken back.
    Raises ``InputError`` when shapes disagree.
    """
    if answer is None:
        answer = refinement.refine(logits_BKN, affinity, attention)
    _check(answer, anchors)
    walk = FAR if walk is None else walk
    if refinement.maps > 1:
        alone, affinity, _, each = one_by_one(answer, affinity, None, anchors)
        assert each is not None
        return _carried(alone, affinity, refinement.rings[0], each, walk).reshape(answer.shape)
    return _carried(answer, affinity, refinement.rings[0], anchors, walk)


def _carried(
    answer: Tensor, affinity: Tensor, near: tuple[Offset, ...], anchors: Anchors, walk: Walk
) -> Tensor:
    with torch.no_grad():
        out = anchors.hold(answer) if bool(anchors.weight.any()) else answer.clone()
        for window in _windows(anchors.weight, walk.reach):
            weights = affinity[window][:, : len(near)].abs()
            out[window] += spread(weights, near, anchors.part(window), answer[window], walk)
        return out


def spread(
    weights: Tensor, near: tuple[Offset, ...], anchors: Anchors, answer: Tensor, walk: Walk
) -> Tensor:
    """What arrives at every pixel (B, K, N) from strokes elsewhere: 0 where a stroke is held.

    ``weights``: (B, neighbours, N), not negative, one map per offset in ``near``.
    """
    share = weights / ((1 + walk.loss) * weight_sum(weights, near) + EPS)
    own = anchors.weight * walk.gain * (anchors.logits - answer)
    share *= 1 - anchors.weight
    x = own
    for _ in range(walk.reach):
        x = add_neighbours(own.clone(), share, x, near)
    arrived = x - own
    return torch.where(anchors.weight > 0, arrived / walk.gain, arrived)


def _check(answer: Tensor, anchors: Anchors) -> None:
    expected = (answer.shape[0], 1, *answer.shape[2:])
    if tuple(anchors.weight.shape) != expected or anchors.logits.shape != answer.shape:
        raise InputError(
            f"got strokes of shape {tuple(anchors.weight.shape)} and "
            f"{tuple(anchors.logits.shape)}, expected {expected} and {tuple(answer.shape)}"
        )


def _windows(weight: Tensor, reach: int) -> list[Window]:
    """Windows that do not overlap, each around strokes that may meet: no stroke reaches out of
    its own, and one pixel more makes the sums over neighbours complete."""
    painted = weight.amax((0, 1)).cpu().numpy() > 0
    labels, _ = ndimage.label(painted, ndimage.generate_binary_structure(painted.ndim, 1))
    boxes: list[Box] = []
    for found in ndimage.find_objects(labels):
        box = tuple((s.start - reach - 1, s.stop + reach + 1) for s in found)
        boxes = _joined(boxes, box)
    around = ([slice(max(a, 0), b) for a, b in box] for box in boxes)
    return [(slice(None), slice(None), *slices) for slices in around]


def _joined(boxes: list[Box], new: Box) -> list[Box]:
    """``boxes`` and a new one, which swallows all that it overlaps."""
    apart = [box for box in boxes if not _overlap(box, new)]
    while len(apart) < len(boxes):
        met = [*(box for box in boxes if _overlap(box, new)), new]
        new = tuple(
            (min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*met, strict=True)
        )
        boxes, apart = apart, [box for box in apart if not _overlap(box, new)]
    return [*apart, new]


def _overlap(one: Box, other: Box) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))
