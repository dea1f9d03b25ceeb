"""HRNetV2 (Wang et al., TPAMI 2020): branches of four resolutions, kept and exchanged throughout.

Stage 1 is four bottlenecks at stride 4; stages 2, 3 and 4 have two, three and four branches of C,
2C, 4C, 8C channels, in 1, 4 and 3 modules of four basic blocks per branch, each module ending with
every branch added to every other. The head is V2's: all branches brought to stride 4, joined, a 1x1
convolution, then the classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import (
    Encoded,
    SegmentationModel,
    pad_to_multiple,
    register_model,
)
from napari_attnseg.models.blocks import ConvNormReLU, he_start, resized, scaled
from napari_attnseg.models.encoder_base import Encoder
from napari_attnseg.models.resnet import BasicBlock, Bottleneck

PLANS = {"w18": 18, "w32": 32, "w48": 48}
"""Channels C of the finest branch."""
MODULES = (1, 4, 3)
"""Of stages 2, 3, 4."""
BLOCKS = 4
STEM = 64


def _project(inside: int, outside: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution and its normalisation, without an activation: it is about to be summed."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside)
    )


def _exchange(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """From one branch's grid and channels to another's (upsampling is left to the sum)."""
    if source == target:
        return nn.Identity()
    if source > target:
        return _project(channels[source], channels[target], 1, 1)
    own = channels[source]
    halvings: list[nn.Module] = [ConvNormReLU(own, own, 3, 2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, _project(own, channels[target], 3, 2))


class Exchange(nn.Module):
    """Four basic blocks in every branch, then ``relu(sum over branches)`` in every branch."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(c, c, 1) for _ in range(BLOCKS))) for c in channels
        )
        n = range(len(channels))
        self.paths = nn.ModuleList(
            nn.ModuleList(_exchange(channels, source, target) for source in n) for target in n
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        return [self._joined(row, xs, xs[i].shape[-2:]) for i, row in enumerate(self.paths)]

    @staticmethod
    def _joined(paths: Iterable[nn.Module], xs: list[Tensor], size: torch.Size) -> Tensor:
        parts = [resized(path(x), size) for path, x in zip(paths, xs, strict=True)]
        return torch.relu(reduce(torch.add, parts))


class HRNetEncoder(Encoder):
    """Features of strides 4, 8, 16, 32 with C, 2C, 4C, 8C channels."""

    title = "HRNetV2"

    def __init__(self, in_channels: int, plan: str = "w18", width: float = 1.0) -> None:
        super().__init__()
        if plan not in PLANS:
            raise InputError(f"got plan={plan!r}, expected one of {', '.join(PLANS)}")
        stem, base = scaled(STEM, width), PLANS[plan]
        self.channels = tuple(scaled(base * 2**i, width) for i in range(len(MODULES) + 1))
        self.strides = tuple(4 * 2**i for i in range(len(self.channels)))
        self.stem = nn.Sequential(
            ConvNormReLU(in_channels, stem, 3, 2), ConvNormReLU(stem, stem, 3, 2)
        )
        wide = stem * Bottleneck.expansion
        self.stage1 = nn.Sequential(
            Bottleneck(stem, stem, 1), *(Bottleneck(wide, stem, 1) for _ in range(BLOCKS - 1))
        )
        first, second = self.channels[:2]
        self.begin = nn.ModuleList([ConvNormReLU(wide, first), ConvNormReLU(wide, second, 3, 2)])
        self.branch_out = nn.ModuleList(
            ConvNormReLU(self.channels[i], self.channels[i + 1], 3, 2)
            for i in range(1, len(self.channels) - 1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Exchange(self.channels[: i + 2]) for _ in range(count)))
            for i, count in enumerate(MODULES)
        )
        he_start(self, "fan_out")

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        y = self.stage1(self.stem(x_BCHW))
        xs = [start(y) for start in self.begin]
        for i, stage in enumerate(self.stages):
            if i:
                xs = [*xs, self.branch_out[i - 1](xs[-1])]
            xs = stage(xs)
        return tuple(xs)


class HRNet(SegmentationModel):
    """Parts: ``encoder``, ``join`` (1x1 over all branches) and ``head``."""

    def __init__(self, encoder: HRNetEncoder, classes: int) -> None:
        super().__init__()
        total = sum(encoder.channels)
        self.encoder = encoder
        self.join = ConvNormReLU(total, total, 1)
        self.head = nn.Conv2d(total, classes, 1)
        self.stride = encoder.strides[-1]
        self.grid = encoder.strides[0]
        he_start(self.join)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        features = (*encoded.skips, encoded.features)
        size = features[0].shape[-2:]
        return self.join(torch.cat([resized(f, size) for f in features], 1))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        rows, cols = (n * self.grid for n in features.shape[-2:])
        return resized(self.head(features), (rows, cols))[..., : size[0], : size[1]]


@register_model(
    title="HRNetV2",
    paper="Wang et al.: Deep High-Resolution Representation Learning for Visual Recognition "
    "(TPAMI 2020)",
    choices={"plan": tuple(PLANS)},
)
def hrnet(in_channels: int = 3, classes: int = 1, plan: str = "w18", width: float = 1.0) -> HRNet:
    """``plan``: w18, w32 or w48, the channels of the finest branch; ``width`` multiplies all."""
    return HRNet(HRNetEncoder(in_channels, plan, width), classes)
