"""A model without attention, two convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.models import base
from napari_attnseg.models.base import Encoded, SegmentationModel


class Plain(SegmentationModel):
    """Two convolutions with dropout between; its regulariser is the mean square of the features.
    ``gamma`` is a weight of its own that nobody tunes."""

    stride = 4

    def __init__(self, in_channels: int, classes: int, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, channels, 4, 4), nn.BatchNorm2d(channels), nn.Dropout2d(0.2)
        )
        self.head = nn.ConvTranspose2d(channels, classes, 4, 4)
        self.gamma = nn.Parameter(torch.tensor(0.7))

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        return Encoded(self.encoder(base.pad_to_multiple(x_BCHW, 4)), (h, w))

    def gate(self, encoded: Encoded, attended: Any, **values: Any) -> Tensor:
        assert attended is None
        assert not values
        self.regulariser = encoded.features.square().mean() if self.training else None
        return encoded.features * self.gamma

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]


def plain_of_test(in_channels: int = 3, classes: int = 1, channels: int = 6) -> Plain:
    """See the class."""
    return Plain(in_channels, classes, channels)
