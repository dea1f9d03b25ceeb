"""Res2Net (Gao et al., TPAMI 2021), the form that its authors call v1b, with 26 channels a group.

Against a ResNet: the 3x3 convolution of a block works on groups of channels one after the other,
each with the result of the one before; the first 7x7 convolution is three of 3x3; shortcuts halve
by means before their 1x1 convolution. No ImageNet weights are offered for it here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.blocks import ConvNormReLU, he_start, scaled
from napari_attnseg.models.encoder_base import Encoder

PLANS = {"101": (3, 4, 23, 3), "50": (3, 4, 6, 3), "tiny": (1, 1, 1, 1)}
"""Blocks on the grids of stride 4, 8, 16 and 32."""
PLANES = (64, 128, 256, 512)
EXPANSION = 4
BASE = 26
"""Channels of a group for 64 planes."""


class Bottle2neck(nn.Module):
    """1x1, groups of 3x3, 1x1 and the shortcut; ``first`` of its grid: groups do not add up."""

    def __init__(
        self, inside: int, planes: int, outside: int, scales: int, stride: int, first: bool
    ) -> None:
        super().__init__()
        own = max(1, planes * BASE // 64)
        self.scales, self.first = scales, first
        self.reduce = ConvNormReLU(inside, own * scales, 1)
        self.convs = nn.ModuleList(ConvNormReLU(own, own, 3, stride) for _ in range(scales - 1))
        pool = nn.AvgPool2d(3, stride, 1) if first else nn.Identity()
        self.rest = pool
        self.expand = nn.Sequential(
            nn.Conv2d(own * scales, outside, 1, bias=False), nn.BatchNorm2d(outside)
        )
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(inside, outside, 1, bias=False),
                nn.BatchNorm2d(outside),
            )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.reduce(x).chunk(self.scales, 1)
        found: list[Tensor] = []
        for layer, part in zip(self.convs, parts, strict=False):
            found.append(layer(part + found[-1] if found and not self.first else part))
        found.append(self.rest(parts[-1]))
        return torch.relu(self.expand(torch.cat(found, 1)) + self.shortcut(x))


class Res2Net(Encoder):
    """Features of strides 4, 8, 16 and 32; 256, 512, 1024 and 2048 channels."""

    title = "Res2Net"

    def __init__(
        self, in_channels: int, plan: str = "101", width: float = 1.0, scales: int = 4
    ) -> None:
        super().__init__()
        if not 2 <= scales <= 8:
            raise InputError(f"got scales={scales}, expected 2 to 8 (the paper has 4)")
        self.width = width
        half, full = scaled(32, width), scaled(64, width)
        self.stem = nn.Sequential(
            ConvNormReLU(in_channels, half, 3, 2),
            ConvNormReLU(half, half),
            ConvNormReLU(half, full),
            nn.MaxPool2d(3, 2, 1),
        )
        self.channels = tuple(scaled(EXPANSION * p, width) for p in PLANES)
        self.strides = (4, 8, 16, 32)
        stages, inside = [], full
        for i, (count, planes) in enumerate(zip(PLANS[plan], PLANES, strict=True)):
            blocks = []
            for k in range(count):
                stride = 2 if i and not k else 1
                args = (inside, scaled(planes, width), self.channels[i], scales, stride, not k)
                blocks.append(Bottle2neck(*args))
                inside = self.channels[i]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        he_start(self, "fan_out")

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x_BCHW)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)
