"""BROKEN ON PURPOSE: the unfold, multiply, fold form of CSPN and DySPN.

An experiment compares the refinements with it; nobody else should use it. ``fold`` puts every
product back on the pixel that ``unfold`` read it from, so nothing is carried to a neighbour. For
CSPN, with normalised weights ``kappa``,

- ``H_{t+1}(q) = H_t(q) sum_k kappa_k(q - o_k) + (1 - sum_k kappa_k(q)) H_0(q)``

and for DySPN the neighbours' weights ``pi_r a_k`` are gathered in the same way while the
normaliser is the pixel's own. Constant maps are not kept: the two sums belong to different pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_attnseg.refinement.base import Advance
from napari_attnseg.refinement.cspn import CSPN
from napari_attnseg.refinement.dyspn import DySPN
from napari_attnseg.refinement.neighbours import Offset, windows
from napari_attnseg.refinement.registry import register_refinement
from napari_attnseg.refinement.stencil import weight_sum


class _Gathered(torch.autograd.Function):
    """The gradient of a gather is a scatter: nothing has to be kept."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, offsets: tuple[Offset, ...]) -> Tensor:
        ctx.offsets, ctx.shape = offsets, weight.shape
        total = torch.zeros_like(weight[:, :1])
        for k, offset in enumerate(offsets):
            here, there = windows(offset, tuple(weight.shape[2:]))
            total[there] += weight[:, k : k + 1][here]
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        d_weight = grad.new_zeros(ctx.shape)
        for k, offset in enumerate(ctx.offsets):
            here, there = windows(offset, tuple(grad.shape[2:]))
            d_weight[:, k : k + 1][here] = grad[there]
        return d_weight, None


def gathered(weight_BKN: Tensor, offsets: tuple[Offset, ...]) -> Tensor:
    """What ``fold`` leaves on pixel q: sum_k weight_k(q - o_k), (B, 1, N)."""
    result: Tensor = _Gathered.apply(weight_BKN, offsets)
    return result


@register_refinement("cspn_fold", control=True)
class FoldedCSPN(CSPN):
    """Broken on purpose: see the module."""

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        kappa = affinity / (weight_sum(affinity, self.offsets, absolute=True) + self.eps)
        gain = gathered(kappa, self.offsets)
        again = (1 - weight_sum(kappa, self.offsets)) * coarse
        return lambda x, t: gain * x + again


@register_refinement("dyspn_fold", control=True)
class FoldedDySPN(DySPN):
    """Broken on purpose: see the module."""

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        assert attention is not None
        parts, sums, sizes = self._by_ring(affinity)

        def advance(x: Tensor, t: int) -> Tensor:
            centre, *pis = attention[:, t].split(1, 1)
            whole = sum((pi * z for pi, z in zip(pis, sizes, strict=True)), centre + self.eps)
            signed = sum((pi * s for pi, s in zip(pis, sums, strict=True)), centre)
            weights = torch.cat([pi * a for pi, (a, _) in zip(pis, parts, strict=True)], 1)
            gain = gathered(weights, self.offsets) + centre
            return (gain * x + (whole - signed) * coarse) / whole

        return advance
