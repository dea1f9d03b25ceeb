"""FCN-8s over VGG-16 (Long, Shelhamer & Darrell, CVPR 2015).

Scores of strides 32, 16 and 8 are summed from the coarsest to the finest, each time after a
learned doubling that starts as bilinear interpolation; the last factor of 8 is bilinear. Images are
padded to a multiple of 32 where the original code pads by 100 pixels and crops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.models.base import (
    Encoded,
    SegmentationModel,
    pad_to_multiple,
    register_model,
)
from napari_attnseg.models.blocks import resized
from napari_attnseg.models.vgg import VGG16


class Doubling(nn.ConvTranspose2d):
    """A learned upsampling by 2 of each class, at first the bilinear one."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes, 4, 2, 1, bias=False)
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.weight.copy_(torch.eye(classes)[:, :, None, None] * tent[:, None] * tent)


class FCN8s(SegmentationModel):
    """Parts: ``encoder`` (VGG-16), ``scores`` and ``doublings`` (finest first)."""

    def __init__(self, encoder: VGG16, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.scores = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in encoder.channels)
        self.doublings = nn.ModuleList(Doubling(classes) for _ in encoder.channels[1:])
        self.stride = encoder.strides[-1]
        self.grid = encoder.strides[0]
        for score in self.scores:
            nn.init.normal_(score.weight, std=0.01)
            nn.init.zeros_(score.bias)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        """Scores (B, classes, H / 8, W / 8)."""
        y = self.scores[-1](encoded.features)
        for level in reversed(range(len(encoded.skips))):
            y = self.doublings[level](y) + self.scores[level](encoded.skips[level])
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        rows, cols = (n * self.grid for n in features.shape[-2:])
        return resized(features, (rows, cols))[..., : size[0], : size[1]]


@register_model(
    title="FCN-8s",
    paper="Long, Shelhamer & Darrell: Fully Convolutional Networks for Semantic Segmentation "
    "(CVPR 2015)",
)
def fcn8s(
    in_channels: int = 3, classes: int = 1, width: float = 1.0, dropout: float = 0.5
) -> FCN8s:
    """``width`` multiplies all channels; ``dropout`` of the two widest layers."""
    return FCN8s(VGG16(in_channels, width, dropout), classes)
