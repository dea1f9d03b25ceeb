"""TransUNet (Chen et al. 2021): a vision transformer at the bottleneck of a U-Net.

A hybrid ResNet of stride 16, its last features as tokens of 768 channels with learned positions, 12
transformer blocks (12 heads, perceptrons of 3072), and a decoder of 256, 128, 64 and 16 channels
that doubles bilinearly and joins the three finer features of the encoder.

As in the authors' code ("R50-ViT-B_16"), for any image size: positions are learned on a grid of
14x14 tokens (images of 224 pixels) and resized bilinearly to the grid at hand, stages of odd size
are padded like their neighbours (there with zeros); 105,276,066 parameters for three channels and
two classes, 97,888,576 of them before the decoder. Different: no dropout, and bilinear doubling
takes pixels as areas. ``encoder="resnet50"`` is the usual ResNet-50 with batch normalisation, for
which ImageNet weights exist. Each block stands as an attention of its own, so its map can be seen
and it can be left out; 0 is the network without that block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import create_attention
from napari_attnseg.attention.vit import ChannelNorm
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import ConvNormReLU, TwoConvs, he_start, resized, scaled
from napari_attnseg.models.encoder_base import Encoder
from napari_attnseg.models.hybrid_encoder import HybridEncoder
from napari_attnseg.models.resnet import ResNet50
from napari_attnseg.models.unet import UDecoder, UNet

DECODER = (16, 64, 128, 256, 512)
"""Channels from the image's grid to that of the tokens."""
ENCODERS = ("hybrid", "resnet50")
HEAD_CHANNELS = 64
"""Channels of one head."""


def cascade(skips: tuple[int, ...], width: float) -> UDecoder:
    """The decoder over skips of strides 2, 4 and 8; the image's own grid has none."""
    own = [scaled(c, width) for c in DECODER]
    ups: list[nn.Module] = [_doubled() for _ in skips]
    blocks: list[nn.Module] = [
        TwoConvs(skip + below, out)
        for skip, below, out in zip(skips, own[2:], own[1:], strict=False)
    ]
    return UDecoder(ups, blocks, nn.Sequential(_doubled(), TwoConvs(own[1], own[0])))


def _doubled() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


class TransUNet(Attentive, UNet):
    """A :class:`UNet` with ``tokens`` (1x1), ``position`` (1, C, g, g), transformer ``blocks``,
    ``norm`` and ``enter`` (3x3, to the decoder) between encoder and decoder."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: UDecoder,
        head: nn.Module,
        hidden: int,
        enter: nn.Module,
        blocks: list[Standing],
        grid: int,
    ) -> None:
        super().__init__(encoder, decoder, head)
        self.tokens = nn.Conv2d(encoder.channels[-1], hidden, 1)
        self.position = nn.Parameter(torch.zeros(1, hidden, grid, grid))
        self.blocks = nn.ModuleList(blocks)
        self.norm = ChannelNorm(hidden)
        self.enter = enter
        self.name_levels()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """Tokens with their positions, and the skips."""
        h, w = x_BCHW.shape[-2:]
        *skips, deepest = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        tokens = self.tokens(deepest)
        return Encoded(tokens + resized(self.position, tokens.shape[2:]), (h, w), tuple(skips))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        y = encoded.features
        for block in self.blocks:
            y = block(at, y)
        return self.decoder(self.enter(self.norm(y)), encoded.skips)


@register_model(
    title="TransUNet",
    paper="Chen et al.: TransUNet: Transformers Make Strong Encoders for Medical Image "
    "Segmentation (2021)",
    choices={"encoder": ENCODERS},
)
def trans_unet(
    in_channels: int = 3,
    classes: int = 1,
    encoder: str = "hybrid",
    width: float = 1.0,
    depth: int = 12,
    heads: int = 12,
    mlp_ratio: float = 4.0,
    grid: int = 14,
) -> TransUNet:
    """``encoder``: hybrid or resnet50 (see the module); ``width`` multiplies all channels;
    ``depth`` transformer blocks with so many ``heads`` of 64 channels, ``mlp_ratio`` of their
    perceptrons; ``grid``: side of the grid on which positions are learned."""
    if encoder not in ENCODERS:
        raise InputError(f"got encoder={encoder!r}, expected one of {', '.join(ENCODERS)}")
    if min(depth, heads, grid) < 1 or mlp_ratio < 0:
        raise InputError(
            f"got depth={depth}, heads={heads}, grid={grid}, mlp_ratio={mlp_ratio}, expected at "
            "least 1 of each and a ratio that is not negative"
        )
    plain = encoder == "resnet50"
    body = ResNet50(in_channels, width, 16) if plain else HybridEncoder(in_channels, width)
    hidden = heads * scaled(HEAD_CHANNELS, width)
    decoder = cascade(body.channels[:-1], width)
    head = nn.Conv2d(scaled(DECODER[0], width), classes, 3, padding=1)
    enter = ConvNormReLU(hidden, scaled(DECODER[-1], width))
    for part in (decoder, head, enter):
        he_start(part)
    blocks = [
        Standing(
            create_attention("vit", hidden, heads=heads, mlp_ratio=mlp_ratio),
            f"bottleneck, block {i + 1}",
            body.strides[-1],
        )
        for i in range(depth)
    ]
    return TransUNet(body, decoder, head, hidden, enter, blocks, grid)
