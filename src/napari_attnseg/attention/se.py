"""Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Bottleneck, Gating, mean, over


@register_attention(
    "se",
    id="A01",
    title="Squeeze-and-excitation",
    paper="Hu, Shen & Sun: Squeeze-and-Excitation Networks (CVPR 2018)",
    kinds=("channel",),
    ndim=(2, 3),
)
class SqueezeExcitation(Gating):
    """One weight per channel, made from the means of all channels.

    Formula:
        z = mean of x over all positions
        s = sigmoid(W2 relu(W1 z))
        y = x * s
    Symbols:
        x, y: features (B, C, H, W) or (B, C, D, H, W)
        z, s: one number per channel (B, C)
        W1: C to C / r, W2: C / r to C
    Cost:
        N C + 2 C^2 / r multiply-adds; 2 C^2 / r weights and C + C / r biases; the map has C numbers
    Notes:
        Biases as in the original; many later copies leave them out (bias=False). C / r is rounded
        down and at least 1; other libraries round it up to a multiple of 8 or take r = 2.
    Args:
        reduction: r, how many times fewer numbers stand in the middle
        bias: whether W1 and W2 have biases
    """

    maps: ClassVar[tuple[str, ...]] = ("channels",)

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True) -> None:
        super().__init__()
        self.mlp = Bottleneck(channels, reduction, bias)

    def weights(self, x_BCN: Tensor) -> Tensor:
        return self.shown("channels", over(torch.sigmoid(self.mlp(mean(x_BCN))), x_BCN))
