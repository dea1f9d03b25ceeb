"""Parts that models share."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class CellDecoder(nn.Module):
    """Transposed convolutions with kernel 2 and stride 2, ReLU between them, none at the end.

    Every layer doubles the size and no two output pixels share an input pixel's neighbours, so
    each position of the input alone decides a square of ``cell`` = 2^layers output pixels.
    (B, channels[0], h, w) to (B, channels[-1], h * cell, w * cell).
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in pairwise(channels):
            layers += [nn.ConvTranspose2d(inside, outside, 2, 2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.cell = 2 ** (len(channels) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
