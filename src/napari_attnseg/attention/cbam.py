"""CBAM: channels first, then positions (Woo et al., ECCV 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Bottleneck, Gating, Norm, conv, largest, mean, over
from napari_attnseg.errors import InputError


@register_attention(
    "cbam",
    id="A10",
    title="CBAM",
    paper="Woo, Park, Lee & Kweon: CBAM: Convolutional Block Attention Module (ECCV 2018)",
    kinds=("channel", "spatial"),
    ndim=(2, 3),
)
class CBAM(Gating):
    """A weight per channel, then a weight per position of what the first one left.

    Formula:
        s = sigmoid(MLP(mean x) + MLP(max x)), x' = x * s
        m = sigmoid(norm(conv_k [max_c x', mean_c x']))
        y = x' * m
    Symbols:
        x, x', y: features (B, C, N)
        MLP: W2 relu(W1 .), C to C / r to C, the same for mean and maximum
        s: one number per channel (B, C)
        m: one number per position (B, 1, N), from two planes by a k x k convolution
    Cost:
        N C + 2 C^2 / r + 2 k^2 N multiply-adds
    Notes:
        The order matters: positions are weighted by what the channel weights left. Libraries that
        add the input again, or swap the two planes, compute something else.
    Args:
        reduction: r
        kernel: k, odd
    """

    maps: ClassVar[tuple[str, ...]] = ("channels", "positions")

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7, ndim: int = 2) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"got kernel={kernel}, expected an odd number")
        self.mlp = Bottleneck(channels, reduction)
        self.spatial = nn.Sequential(conv(ndim, 2, 1, kernel, bias=False), Norm(1))

    def weights(self, x_BCN: Tensor) -> Tensor:
        s = torch.sigmoid(self.mlp(mean(x_BCN)) + self.mlp(largest(x_BCN)))
        channels = self.shown("channels", over(s, x_BCN))
        x = x_BCN * channels
        planes = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        m = self.shown("positions", torch.sigmoid(self.spatial(planes)), x_BCN.shape[2:])
        return channels * m
