"""UNETR (Hatamizadeh et al., WACV 2022) in two or three dimensions.

Patches of 16 pixels a side become tokens of 768 channels that pass 12 transformer blocks (12 heads,
perceptrons of 3072); what they are after 3, 6 and 9 blocks goes through up-convolutions to the
grids of stride 2, 4 and 8 as skips, and a decoder of residual convolutions joins them with the
tokens at the end and with the image itself.

The convolutions are MONAI's blocks, as in ``monai.networks.nets.UNETR``; the transformer is our
own, so that its attention is seen and never held as a whole. Against the paper: positions are
sines and cosines, not learned for one size of image, so any size can be used; attention has the
biases of the common vision transformer; after 12 blocks tokens are normalised, as there. Three
blocks each are one attention that can be let through by degrees.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from napari_attnseg.attention.base import create_attention
from napari_attnseg.attention.vit import ChannelNorm, sinusoid
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing, sketched
from napari_attnseg.models.base import (
    Encoded,
    check_ndim,
    cropped,
    register_model,
    spatial_size,
)
from napari_attnseg.models.blocks import convolution, scaled
from napari_attnseg.models.monai_parts import monai_part, padded, padded_size, residual

PATCH = 16
HEADS = 12
HEAD_CHANNELS = 64
FEATURES = 16
"""On the image's grid."""
PARTS = 4
"""Times at which the tokens are looked at."""


class UNETR(Attentive):
    """Parts: ``embed``, ``parts`` (transformer blocks), ``skips`` and ``ups`` (finest first),
    ``norm``, ``head``."""

    stride = PATCH

    def __init__(
        self, in_channels: int, classes: int, heads: int, features: int, depth: int, ndim: int = 2
    ) -> None:
        super().__init__()
        self.ndim = ndim
        f, tokens = features, heads * HEAD_CHANNELS
        self.embed = convolution(ndim)(in_channels, tokens, PATCH, PATCH)
        self.parts = nn.ModuleList(
            Standing(
                create_attention("vit", tokens, heads=heads, depth=depth, ndim=ndim),
                f"blocks {depth * i + 1} to {depth * (i + 1)}",
                PATCH,
            )
            for i in range(PARTS)
        )
        self.norm = ChannelNorm(tokens)
        skips = [residual("UnetrBasicBlock", in_channels, f, ndim, stride=1)]
        skips += [
            residual(
                "UnetrPrUpBlock",
                tokens,
                f * 2 ** (i + 1),
                ndim,
                stride=1,
                num_layer=2 - i,
                upsample_kernel_size=2,
                conv_block=True,
            )
            for i in range(3)
        ]
        self.skips = nn.ModuleList(skips)
        below = [2 * f, 4 * f, 8 * f, tokens]
        self.ups = nn.ModuleList(
            residual("UnetrUpBlock", inside, f * 2**i, ndim, upsample_kernel_size=2)
            for i, inside in enumerate(below)
        )
        self.head = monai_part("monai.networks.blocks", "UnetOutBlock")(
            spatial_dims=ndim, in_channels=f, out_channels=classes
        )
        self.name_levels()

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return padded_size(size, self.stride)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """Tokens with their positions, and what the finest skip makes of the image."""
        x = padded(x_BCHW, self.stride)
        tokens = self.embed(x)
        tokens = tokens + sinusoid(tuple(tokens.shape[2:]), tokens.shape[1], tokens)
        return Encoded(tokens, spatial_size(x_BCHW), (self.skips[0](x),))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        y, skips = encoded.features, list(encoded.skips)
        for part, skip in zip(self.parts, [*self.skips[1:], None], strict=True):
            y = part(at, y)
            if skip is not None:
                skips.append(skip(y))
        y = self.norm(y)
        for up, skip in reversed(list(zip(self.ups, skips, strict=True))):
            y = up(y, skip)
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return cropped(self.head(features), size)


@register_model(
    title="UNETR",
    paper="Hatamizadeh et al.: UNETR: Transformers for 3D Medical Image Segmentation (WACV 2022), "
    "in two or three dimensions",
    choices={"ndim": (2, 3)},
    sketch=sketched(
        87_146_417,
        [(f"parts.{i}.module", f"blocks {3 * i + 1} to {3 * i + 3}", PATCH) for i in range(PARTS)],
    ),
)
def unetr(
    in_channels: int = 3, classes: int = 1, width: float = 1.0, depth: int = 12, ndim: int = 2
) -> UNETR:
    """``width`` multiplies all channels; ``depth``: transformer blocks, a multiple of 4; ``ndim``:
    2 for slices, 3 for volumes as a whole, as in the paper."""
    check_ndim(ndim)
    if not width > 0 or depth < PARTS or depth % PARTS:
        raise InputError(
            f"got width={width} and depth={depth}, expected a number above 0 and a multiple of "
            f"{PARTS} (the paper has 12)"
        )
    heads = max(1, round(HEADS * width))
    features = scaled(FEATURES, width)
    return UNETR(in_channels, classes, heads, features, depth // PARTS, ndim)
