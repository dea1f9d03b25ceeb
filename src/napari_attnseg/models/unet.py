"""U-Net (Ronneberger, Fischer & Brox, MICCAI 2015), plain or with a published encoder.

As nearly everybody builds it since: padded convolutions, so that the answer has the image's size,
and batch normalisation (``norm=False`` is without, as in the paper).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import (
    Encoded,
    SegmentationModel,
    check_ndim,
    cropped,
    pad_to_multiple,
    register_model,
    spatial_size,
)
from napari_attnseg.models.blocks import TwoConvs, convolution, he_start, scaled
from napari_attnseg.models.encoders import Encoder, create_encoder, list_encoders

CHANNELS = (64, 128, 256, 512, 1024)
"""Of the paper's five grids, finest first."""
DECODER = (16, 32, 64, 128, 256)
"""Of the decoder over a published encoder, finest first."""
Pass = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""What becomes of a skip: (level from 0, skip, features below, these on the skip's grid)."""


class PlainEncoder(Encoder):
    """Two convolutions per grid, 2x2 maxima between grids; features of all grids, finest first."""

    title = "U-Net's own"

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], norm: bool = True, ndim: int = 2
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoConvs(inside, outside, norm, ndim)
            for inside, outside in pairwise((in_channels, *channels))
        )
        self.pool: nn.Module = (nn.MaxPool3d if ndim == 3 else nn.MaxPool2d)(2)
        self.ndim = ndim
        self.channels = channels
        self.strides = tuple(2**i for i in range(len(channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(self.pool(x) if features else x)
            features.append(x)
        return tuple(features)


class UDecoder(nn.Module):
    """From the deepest features up, one skip per level: ``block(cat(skip, up(below)))``.

    ``ups`` and ``blocks`` are finest first; ``finish`` takes the finest features to the image's
    grid where no skip lies there.
    """

    def __init__(
        self, ups: list[nn.Module], blocks: list[nn.Module], finish: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList(ups)
        self.blocks = nn.ModuleList(blocks)
        self.finish = finish or nn.Identity()

    def forward(self, y: Tensor, skips: tuple[Tensor, ...], through: Pass | None = None) -> Tensor:
        """``skips`` finest first; ``through`` may change each before it is used."""
        for level in reversed(range(len(skips))):
            up = self.ups[level](y)
            skip = skips[level] if through is None else through(level, skips[level], y, up)
            y = self.blocks[level](torch.cat([skip, up], 1))
        return self.finish(y)


def plain_decoder(channels: tuple[int, ...], norm: bool = True, ndim: int = 2) -> UDecoder:
    """The paper's: 2x2 up-convolutions that halve the channels (here: go to the skip's)."""
    steps = list(pairwise(channels))
    made = nn.ConvTranspose3d if ndim == 3 else nn.ConvTranspose2d
    ups: list[nn.Module] = [made(below, own, 2, 2) for own, below in steps]
    return UDecoder(ups, [TwoConvs(2 * own, own, norm, ndim) for own, _ in steps])


def nearest_decoder(channels: tuple[int, ...], width: float) -> UDecoder:
    """Over an encoder that begins at half the image's grid: nearest doubling, then two 3x3
    convolutions with the skip; the finest level has none."""
    own = [scaled(c, width) for c in DECODER[-len(channels) :]]
    below = [*own[2:], channels[-1]]
    blocks: list[nn.Module] = [
        TwoConvs(skip + inside, outside)
        for skip, inside, outside in zip(channels[:-1], below, own[1:], strict=True)
    ]
    ups: list[nn.Module] = [nn.Upsample(scale_factor=2) for _ in blocks]
    finish = nn.Sequential(nn.Upsample(scale_factor=2), TwoConvs(own[1], own[0]))
    return UDecoder(ups, blocks, finish)


class UNet(SegmentationModel):
    """Parts: ``encoder``, ``decoder`` (a :class:`UDecoder`) and ``head`` (1x1 or 3x3)."""

    def __init__(self, encoder: Encoder, decoder: UDecoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.head = head
        self.stride = encoder.strides[-1]
        self.ndim = getattr(encoder, "ndim", 2)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], spatial_size(x_BCHW), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        return self.decoder(encoded.features, encoded.skips)

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return cropped(self.head(features), size)


def plain_channels(width: float, levels: int) -> tuple[int, ...]:
    """64 x 2^i channels at a width multiplier, ``levels`` times halved in size."""
    if not 1 <= levels <= 6:
        raise InputError(f"got levels={levels}, expected 1 to 6 (the paper has 4)")
    return tuple(scaled(64 * 2**i, width) for i in range(levels + 1))


def build_unet(encoder: Encoder, classes: int, width: float) -> UNet:
    """A U-Net over any encoder whose finest features lie at half the image's grid."""
    decoder = nearest_decoder(encoder.channels, width)
    head = nn.Conv2d(scaled(DECODER[0], width), classes, 3, padding=1)
    he_start(decoder)
    return UNet(encoder, decoder, head)


@register_model(
    title="U-Net",
    paper="Ronneberger, Fischer & Brox: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation (MICCAI 2015)",
    choices={"encoder": ("plain", *list_encoders()), "ndim": (2, 3)},
)
def unet(
    in_channels: int = 3,
    classes: int = 1,
    encoder: str = "plain",
    width: float = 1.0,
    levels: int = 4,
    norm: bool = True,
    ndim: int = 2,
) -> UNet:
    """``encoder``: ``"plain"`` (the paper's) or a published one (see ``list_encoders``), for which
    weights exist; ``width`` multiplies all channels; ``levels`` and ``norm`` concern the plain one:
    how often the size is halved, and batch normalisation; ``ndim``: 2 for slices, 3 for volumes as
    a whole (plain)."""
    check_ndim(ndim)
    if encoder != "plain" and ndim == 3:
        raise InputError(f"got encoder={encoder} with ndim=3, expected plain: it is of images")
    if encoder != "plain":
        return build_unet(create_encoder(encoder, in_channels, width), classes, width)
    channels = plain_channels(width, levels)
    model = UNet(
        PlainEncoder(in_channels, channels, norm, ndim),
        plain_decoder(channels, norm, ndim),
        convolution(ndim)(channels[0], classes, 1),
    )
    he_start(model)
    return model
