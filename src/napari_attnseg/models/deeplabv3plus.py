"""DeepLabv3+ (Chen et al., ECCV 2018) over a ResNet at output stride 16.

As in the paper: holed convolutions at rates 6, 12, 18 beside a 1x1 convolution and the image's
mean (atrous spatial pyramid pooling), features of stride 4 reduced to 48 channels, two 3x3
convolutions on both, and separable convolutions throughout the pyramid and the decoder. The
paper's encoders are Xception and ResNet-101; the default here is ResNet-50.
"""

from __future__ import annotations

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
from napari_attnseg.models.blocks import (
    ConvNormReLU,
    PooledNorm,
    Separable,
    he_start,
    resized,
    scaled,
)
from napari_attnseg.models.encoders import ResNet, ResNet18, ResNet34, ResNet50

RATES = (6, 12, 18)
CHANNELS = 256
FINE = 48
"""Channels of the features of stride 4 that the decoder takes."""
RESNETS: dict[str, type[ResNet]] = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
}


class Pyramid(nn.Module):
    """(B, inside, h, w) to (B, outside, h, w): several fields of view of each position at once."""

    def __init__(self, inside: int, outside: int, rates: tuple[int, ...] = RATES) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvNormReLU(inside, outside, 1),
                *(Separable(inside, outside, dilation=rate) for rate in rates),
            ]
        )
        self.mean = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inside, outside, 1, bias=False),
            PooledNorm(outside),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Sequential(
            ConvNormReLU(outside * (len(rates) + 2), outside, 1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(x).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


class DeepLabV3Plus(SegmentationModel):
    """Parts: ``encoder`` (strides 4 and 16 are used), ``pyramid``, ``fine``, ``body``, ``head``."""

    def __init__(self, encoder: ResNet, classes: int, width: float) -> None:
        super().__init__()
        channels, fine = scaled(CHANNELS, width), scaled(FINE, width)
        self.encoder = encoder
        self.pyramid = Pyramid(encoder.channels[-1], channels)
        self.fine = ConvNormReLU(encoder.channels[1], fine, 1)
        self.body = nn.Sequential(
            Separable(channels + fine, channels), Separable(channels, channels)
        )
        self.head = nn.Conv2d(channels, classes, 1)
        self.stride = encoder.strides[-1]
        self.grid = encoder.strides[1]
        for part in (self.pyramid, self.fine, self.body):
            he_start(part)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), (features[1],))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        fine = self.fine(encoded.skips[0])
        coarse = resized(self.pyramid(encoded.features), fine.shape[-2:])
        return self.body(torch.cat([coarse, fine], 1))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        rows, cols = (n * self.grid for n in features.shape[-2:])
        return resized(self.head(features), (rows, cols))[..., : size[0], : size[1]]


@register_model(
    title="DeepLabv3+",
    paper="Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image "
    "Segmentation (ECCV 2018)",
    choices={"encoder": tuple(RESNETS)},
)
def deeplabv3plus(
    in_channels: int = 3, classes: int = 1, encoder: str = "resnet50", width: float = 1.0
) -> DeepLabV3Plus:
    """``encoder``: resnet18, resnet34 or resnet50; ``width`` multiplies all channels."""
    if encoder not in RESNETS:
        raise InputError(f"got encoder={encoder!r}, expected one of {', '.join(RESNETS)}")
    return DeepLabV3Plus(RESNETS[encoder](in_channels, width, dilated=True), classes, width)
