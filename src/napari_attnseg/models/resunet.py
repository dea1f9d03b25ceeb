"""Deep residual U-Net (Zhang, Liu & Wang, IEEE GRSL 2018): seven residual units.

Each unit is ``shortcut(x) + conv(relu(bn(conv(relu(bn(x))))))``; the first leaves out its first
normalisation and activation. Units 2, 3 and the bridge halve the size by their first convolution.
The paper leaves open how it doubles and what its shortcuts are where shapes differ (its 7.8 million
parameters hold none for either). Defaults here are nearest neighbours and 1x1 convolutions;
``up="transposed"`` (2x2 transposed convolutions) and ``shortcut=3`` (3x3 convolutions, normalised)
give the larger network of widespread code.
"""

from __future__ import annotations

from itertools import pairwise
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
from napari_attnseg.models.blocks import he_start, scaled
from napari_attnseg.models.encoder_base import Encoder

CHANNELS = (64, 128, 256, 512)
UPS = ("nearest", "transposed")


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions before which lie normalisation and activation; ``bare``: not before the
    first. ``shortcut``: kernel of the convolution beside them (1, or 3 with normalisation)."""

    def __init__(
        self, inside: int, outside: int, stride: int = 1, shortcut: int = 1, bare: bool = False
    ) -> None:
        super().__init__()
        before: list[nn.Module] = [] if bare else [nn.BatchNorm2d(inside), nn.ReLU()]
        self.body = nn.Sequential(
            *before,
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1),
        )
        self.shortcut: nn.Module = nn.Conv2d(
            inside, outside, shortcut, stride, shortcut // 2, bias=False
        )
        if shortcut > 1:
            self.shortcut = nn.Sequential(self.shortcut, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class ResidualEncoder(Encoder):
    """Units 1 to 3 and the bridge; strides 1, 2, 4, 8."""

    title = "ResUNet's own"

    def __init__(self, in_channels: int, channels: tuple[int, ...], shortcut: int) -> None:
        super().__init__()
        first = ResidualUnit(in_channels, channels[0], 1, shortcut, bare=True)
        rest = (ResidualUnit(i, o, 2, shortcut) for i, o in pairwise(channels))
        self.units = nn.ModuleList([first, *rest])
        self.channels = channels
        self.strides = tuple(2**i for i in range(len(channels)))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        features = [x_BCHW]
        for unit in self.units:
            features.append(unit(features[-1]))
        return tuple(features[1:])


class ResUNet(SegmentationModel):
    """Parts: ``encoder``, ``ups`` and ``units`` (finest first), ``head`` (1x1)."""

    def __init__(self, encoder: ResidualEncoder, classes: int, up: str, shortcut: int) -> None:
        super().__init__()
        steps = list(pairwise(encoder.channels))
        self.encoder = encoder
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, below, 2, 2)
            if up == "transposed"
            else nn.Upsample(scale_factor=2)
            for _, below in steps
        )
        self.units = nn.ModuleList(
            ResidualUnit(below + own, own, 1, shortcut) for own, below in steps
        )
        self.head = nn.Conv2d(encoder.channels[0], classes, 1)
        self.stride = encoder.strides[-1]
        he_start(self)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        y = encoded.features
        for level in reversed(range(len(self.ups))):
            y = self.units[level](torch.cat([self.ups[level](y), encoded.skips[level]], 1))
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]


@register_model(
    title="ResUNet",
    paper="Zhang, Liu & Wang: Road Extraction by Deep Residual U-Net (IEEE GRSL 2018)",
    choices={"up": UPS, "shortcut": (1, 3)},
)
def resunet(
    in_channels: int = 3,
    classes: int = 1,
    up: str = "nearest",
    shortcut: int = 1,
    width: float = 1.0,
) -> ResUNet:
    """``up``: nearest or transposed; ``shortcut``: 1 or 3 (see the module); ``width`` multiplies
    all channels."""
    if up not in UPS or shortcut not in (1, 3):
        raise InputError(
            f"got up={up!r} and shortcut={shortcut}, expected {' or '.join(UPS)} and 1 or 3"
        )
    channels = tuple(scaled(c, width) for c in CHANNELS)
    return ResUNet(ResidualEncoder(in_channels, channels, shortcut), classes, up, shortcut)
