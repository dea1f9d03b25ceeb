"""U-Net Transformer (Petit et al., MLMI 2021): attention at the bottleneck and at every skip.

At the deepest grid multi-head self-attention over all positions, which are told by sines and
cosines of row and column. At each skip multi-head cross-attention: queries and keys are the
features from below, values the skip brought to their grid; through a sigmoid it becomes a weight
per position and channel of the skip.

Our reading, where the paper leaves it open: self-attention is added to its input and normalises it
(over channels) as transformers do, and has no perceptron; the decoder is the standard U-Net's
(2x2 up-convolutions, two 3x3 convolutions with batch normalisation); up to 8 heads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from napari_attnseg.attention.base import create_attention
from napari_attnseg.models.attentive import Attentive, Standing, start_around
from napari_attnseg.models.base import Encoded, register_model
from napari_attnseg.models.unet import (
    PlainEncoder,
    UDecoder,
    UNet,
    plain_channels,
    plain_decoder,
)


class UNetTransformer(Attentive, UNet):
    """A :class:`UNet` with self-attention ``deep`` and cross-attention ``gates``, finest first."""

    def __init__(
        self, encoder: PlainEncoder, decoder: UDecoder, head: nn.Module, heads: int | None
    ) -> None:
        super().__init__(encoder, decoder, head)
        channels = encoder.channels
        inner = create_attention(
            "vit", channels[-1], heads=heads, mlp_ratio=0.0, position="sinusoid"
        )
        self.deep = Standing(inner, "bottleneck", self.stride)
        self.gates = nn.ModuleList(
            Standing(
                create_attention(
                    "cross", skip, context_channels=below, variant="mhca", heads=heads
                ),
                f"skip {i + 1}",
                2**i,
            )
            for i, (skip, below) in enumerate(pairwise(channels))
        )
        self.name_levels()

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)

        def through(level: int, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
            gated: Tensor = self.gates[level](at, skip, below)
            return gated

        return self.decoder(self.deep(at, encoded.features), encoded.skips, through)


@register_model(
    title="U-Net Transformer",
    paper="Petit et al.: U-Net Transformer: Self and Cross Attention for Medical Image "
    "Segmentation (MLMI 2021)",
)
def unet_transformer(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    levels: int = 4,
    heads: int | None = None,
) -> UNetTransformer:
    """``width`` multiplies all channels; ``levels``: how often the size is halved; ``heads`` of
    every attention (``None``: as many up to 8 as divide the channels)."""
    channels = plain_channels(width, levels)
    head = nn.Conv2d(channels[0], classes, 1)
    model = UNetTransformer(
        PlainEncoder(in_channels, channels), plain_decoder(channels), head, heads
    )
    start_around(model)
    return model
