"""The convolutional half of hybrid vision transformers (Dosovitskiy et al., ICLR 2021).

A ResNet-50 whose convolutions have standardised weights (Qiao et al. 2019) and whose normalisation
is over groups of channels (Wu & He, ECCV 2018), up to stride 16, with 3, 4 and 9 blocks.
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.models.blocks import he_start, scaled
from napari_attnseg.models.encoder_base import Encoder

BLOCKS = (3, 4, 9)
"""Residual blocks of strides 4, 8 and 16."""
GROUPS = 32


class StandardConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and variance 1 when they are used."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride, kernel // 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(var + 1e-5)
        return F.conv2d(input, weight, None, self.stride, self.padding)


class ChannelGroups(nn.GroupNorm):
    """Group normalisation that takes maps of a single position too (there the bias is left)."""

    def __init__(self, channels: int, groups: int = GROUPS, eps: float = 1e-6) -> None:
        super().__init__(gcd(groups, channels), channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class HybridBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the last has four times the channels. Where
    the shortcut is a convolution, each of its channels is normalised alone."""

    def __init__(self, inside: int, middle: int, stride: int = 1) -> None:
        super().__init__()
        outside = 4 * middle
        self.body = nn.Sequential(
            StandardConv(inside, middle),
            ChannelGroups(middle),
            nn.ReLU(inplace=True),
            StandardConv(middle, middle, 3, stride),
            ChannelGroups(middle),
            nn.ReLU(inplace=True),
            StandardConv(middle, outside),
            ChannelGroups(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                StandardConv(inside, outside, 1, stride), ChannelGroups(outside, outside, 1e-5)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class HybridEncoder(Encoder):
    """Features after the stem (stride 2) and after each stage (4, 8, 16)."""

    title = "Hybrid ResNet-50"
    strides = (2, 4, 8, 16)

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        middle = [scaled(64 * 2**i, width) for i in range(len(BLOCKS))]
        self.stem = nn.Sequential(
            StandardConv(in_channels, middle[0], 7, 2),
            ChannelGroups(middle[0]),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        inside = middle[0]
        for i, (count, own) in enumerate(zip(BLOCKS, middle, strict=True)):
            first = HybridBlock(inside, own, 1 if i == 0 else 2)
            rest = (HybridBlock(4 * own, own) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inside = 4 * own
        self.channels = (middle[0], *(4 * own for own in middle))
        he_start(self, "fan_out")

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        features = [self.stem(x_BCHW)]
        y = self.pool(features[0])
        for stage in self.stages:
            y = stage(y)
            features.append(y)
        return tuple(features)
