"""The additive attention gate of Attention U-Net (Oktay et al., MIDL 2018, equations 1 and 2).

With a skip connection x and a gating signal g from below:

- ``q = psi^T relu(W_x x + W_g g + b_g) + b_psi`` (eq. 1; all 1x1 convolutions)
- ``alpha = sigmoid(q)`` (eq. 2), and the skip becomes ``alpha * x``

Where g lies on a coarser grid, x is brought down to it by the mean over each cell (W_x commutes
with it) and alpha brought up to x bilinearly, as the paper resamples. Implementations for images
often normalise the three products (``norm=True``) and give g at the grid of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Role, Structure, register_attention
from napari_attnseg.attention.layers import Norm, conv, pooled, resized
from napari_attnseg.attention.recording import Geometry

THETAS = ("mean", "conv")


@register_attention(
    "attention_gate",
    id="A09",
    title="Attention gate",
    paper="Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas (MIDL 2018)",
    kinds=("spatial",),
    ndim=(2, 3),
    aliases=("additive",),
)
class AdditiveGate(AttentionModule):
    """A weight per position of the skip, from the skip and from what the layer below knows.

    Formula:
        q = psi relu(W_x x + W_g g + b_g) + b_psi
        a = sigmoid(q)
        y = a * x
    Symbols:
        x, y: skip and its answer (B, C, N)
        g: context from below (B, C_g, n), on the grid of x or a coarser one
        W_x, W_g, psi: 1 x 1 convolutions to c, c and 1 channels
        a: one number per position (B, 1, n), brought to the grid of x linearly
    Cost:
        N (C + C_g) c multiply-adds; the map has n numbers
    Notes:
        Where g is coarser, x is brought down to it by the mean over each cell (theta="mean"); the
        published code takes a 2 x 2 convolution with stride 2 (theta="conv", for a context of half
        the size) and passes the answer through a 1 x 1 convolution and normalisation (out=True).
        Implementations for images often normalise the three products (norm=True).
    Args:
        inner: c, channels of the sum (None: half of the skip's)
        norm: batch normalisation of each product, which then needs no bias
        theta: how x comes to a coarser grid, "mean" or "conv"
        out: whether the answer passes a 1 x 1 convolution and normalisation
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("gate",)
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"theta": THETAS}
    structure: ClassVar[Structure] = "diagonal"

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        inner: int | None = None,
        norm: bool = False,
        theta: str = "mean",
        out: bool = False,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        inner = inner or max(1, channels // 2)
        self.halved = self.checked("theta", theta) == "conv"
        if self.halved:
            self.skip = conv(ndim, channels, inner, 2, stride=2, padding=0, bias=False)
        else:
            self.skip = _product(channels, inner, norm, False, ndim)
        self.context = _product(context_channels or channels, inner, norm, True, ndim)
        self.psi = _product(inner, 1, norm, True, ndim)
        self.out: nn.Module | None = None
        if out:
            self.out = nn.Sequential(conv(ndim, channels, channels), Norm(channels))

    def weights(self, skip: Tensor, context: Tensor) -> Tensor:
        """alpha (B, 1, n) on the grid of the context (of the halved skip with theta="conv")."""
        if self.halved:
            low = self.skip(_even(skip))
            below = resized(self.context(context), low.shape[2:])
            return torch.sigmoid(self.psi(torch.relu(low + below)))
        if skip.shape[2:] != context.shape[2:]:
            skip = pooled(skip, context.shape[2:])
        return torch.sigmoid(self.psi(torch.relu(self.skip(skip) + self.context(context))))

    def forward(self, skip: Tensor, context: Tensor, level: float = 1.0) -> Tensor:
        """The gated skip; ``level`` scales what the gate takes away: 1 as trained, 0 the skip."""
        alpha = self.weights(skip, context)
        if self.probe is not None:
            where = Geometry.over(skip.shape[2:], alpha.shape[2:])
            self.probe.note("gate", alpha.squeeze(1), "spatial", where)
        gated = resized(alpha, skip.shape[2:]) * skip
        if self.out is not None:
            gated = self.out(gated)
        return gated if level == 1.0 else torch.lerp(skip, gated, level)

    def operator(self, *inputs: Tensor) -> Tensor:
        alpha = resized(self.weights(*inputs), inputs[0].shape[2:])
        return torch.diag_embed(alpha.flatten(2))

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        gated = super().collect(mixed_BMCN, *inputs)
        return gated if self.out is None else self.out(gated)


def _even(x_BCN: Tensor) -> Tensor:
    """Odd sizes made even by repeating the last line."""
    odd = [n % 2 for n in reversed(x_BCN.shape[2:])]
    return F.pad(x_BCN, [v for o in odd for v in (0, o)], mode="replicate") if any(odd) else x_BCN


def _product(inside: int, outside: int, norm: bool, bias: bool, ndim: int) -> nn.Module:
    if not norm:
        return conv(ndim, inside, outside, bias=bias)
    return nn.Sequential(conv(ndim, inside, outside, bias=False), Norm(outside))
