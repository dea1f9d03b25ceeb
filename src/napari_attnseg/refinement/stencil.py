"""The one heavy operation of learned propagation: a sum over neighbours, each with its own weight.

``out[b, c, p] = sum_k weight[b, k, p] * x[b, c, p + offset_k]``, neighbours outside left out.
Shifted windows are multiplied and added in place: no unfolded copy (which would hold every pixel
once per neighbour) and no convolution built per call.

Legend: B = batch, C = maps (classes), K = neighbours, N = spatial axes (2 or 3 of them).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_attnseg.refinement.neighbours import Offset, windows

Offsets = tuple[Offset, ...]


def add_neighbours(out: Tensor, weight_BKN: Tensor, x_BCN: Tensor, offsets: Offsets) -> Tensor:
    """Add the neighbour sum to ``out`` (B, C, N) in place, without gradients."""
    shape = tuple(x_BCN.shape[2:])
    for k, offset in enumerate(offsets):
        here, there = windows(offset, shape)
        out[here].addcmul_(weight_BKN[:, k : k + 1][here], x_BCN[there])
    return out


class _NeighbourSum(torch.autograd.Function):
    """Keeps only its two inputs; the gradient is the same stencil turned round."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, offsets: Offsets) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.offsets = offsets
        return add_neighbours(torch.zeros_like(x), weight, x, offsets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, x = ctx.saved_tensors
        (grad,) = grads
        shape = tuple(x.shape[2:])
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[0] else None
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        for k, offset in enumerate(ctx.offsets):
            here, there = windows(offset, shape)
            if d_weight is not None:
                d_weight[:, k : k + 1][here] = (grad[here] * x[there]).sum(1, keepdim=True)
            if d_x is not None:
                d_x[there].addcmul_(weight[:, k : k + 1][here], grad[here])
        return d_weight, d_x, None


def neighbour_sum(weight_BKN: Tensor, x_BCN: Tensor, offsets: Offsets) -> Tensor:
    """The neighbour sum (B, C, N) of ``x``, differentiable in both arguments.

    ``weight_BKN``: (B, K, N), one map per offset; what it holds where p + offset lies outside
    the image is never read.
    """
    if torch.is_grad_enabled() and (weight_BKN.requires_grad or x_BCN.requires_grad):
        result: Tensor = _NeighbourSum.apply(weight_BKN, x_BCN, offsets)
        return result
    return add_neighbours(torch.zeros_like(x_BCN), weight_BKN, x_BCN, offsets)


def weight_sum(weight_BKN: Tensor, offsets: Offsets, absolute: bool = False) -> Tensor:
    """Sum of the weights (or of their absolute values) of the neighbours inside: (B, 1, N)."""
    total = torch.zeros_like(weight_BKN[:, :1])
    shape = tuple(weight_BKN.shape[2:])
    for k, offset in enumerate(offsets):
        here, _ = windows(offset, shape)
        part = weight_BKN[:, k : k + 1][here]
        total[here] += part.abs() if absolute else part
    return total
