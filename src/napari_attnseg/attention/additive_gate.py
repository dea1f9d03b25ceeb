"""The additive attention gate of Attention U-Net (Oktay et al., MIDL 2018, equations 1 and 2).

With a skip connection x and a gating signal g from below:

- ``q = psi^T relu(W_x x + W_g g + b_g) + b_psi`` (eq. 1; all 1x1 convolutions)
- ``alpha = sigmoid(q)`` (eq. 2), and the skip becomes ``alpha * x``

Where g lies on a coarser grid, x is brought down to it by the mean over each cell (W_x commutes
with it) and alpha brought up to x bilinearly, as the paper resamples. Implementations for images
often normalise the three products (``norm=True``) and give g at the grid of x.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Role, register_attention


@register_attention(
    "attention_gate",
    id="A09",
    title="Attention gate",
    paper="Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas (MIDL 2018)",
    kinds=("spatial",),
    aliases=("additive",),
)
class AdditiveGate(AttentionModule):
    """(skip (B, channels, h, w), context (B, context_channels, h/r, w/r)) to the skip's shape.

    ``context_channels``: of g (``None``: those of the skip). ``inner``: channels of the sum
    (``None``: half of the skip's). ``norm``: batch normalisation of each product, which then
    needs no bias. ``level`` of the forward scales what the gate takes away: 1 as trained, 0 the
    skip itself.
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("gate",)

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        inner: int | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        inner = inner or max(1, channels // 2)
        self.skip = _product(channels, inner, norm, bias=False)
        self.context = _product(context_channels or channels, inner, norm, bias=True)
        self.psi = _product(inner, 1, norm, bias=True)

    def weights(self, skip: Tensor, context: Tensor) -> Tensor:
        """alpha (B, 1, h', w') on the grid of the context."""
        if skip.shape[-2:] != context.shape[-2:]:
            skip = F.adaptive_avg_pool2d(skip, context.shape[-2:])
        return torch.sigmoid(self.psi(torch.relu(self.skip(skip) + self.context(context))))

    def forward(self, skip: Tensor, context: Tensor, level: float = 1.0) -> Tensor:
        """The gated skip."""
        alpha = self.weights(skip, context)
        if self.probe is not None:
            self.probe.note("gate", alpha.squeeze(1), "spatial")
        if alpha.shape[-2:] != skip.shape[-2:]:
            alpha = F.interpolate(alpha, skip.shape[-2:], mode="bilinear", align_corners=False)
        gated = alpha * skip
        return gated if level == 1.0 else torch.lerp(skip, gated, level)


def _product(inside: int, outside: int, norm: bool, bias: bool) -> nn.Module:
    if not norm:
        return nn.Conv2d(inside, outside, 1, bias=bias)
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))
