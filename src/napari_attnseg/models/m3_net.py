"""M3-Net (Qu et al., Medical Image Analysis 75, 2022): two phases of one scan, seen together.

Two encoders, one per phase, that hear of each other at every level; at their ends every phase
looks for what corresponds in the other, by position (cross-phase non-local attention) and by
channel; one decoder. The first half of the input's channels is phase 1, the second half phase 2;
with an odd number (a grey image, a colour image) both encoders see all of it.

No code was at hand; this is our reading. Links are 1x1 convolutions of both phases' features;
location attention is cross-attention (queries of one phase, keys and values of the other);
attention over channels is the softmax of products between both phases' channels, scaled; skips are
1x1 convolutions of both; channels and decoder are the standard U-Net's. The paper's several views
and scales are ways of using the network (training on slices of three directions and on crops of
several sizes, whose answers are joined) and are not part of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, create_attention
from napari_attnseg.models.attentive import Attentive, Standing, Strengths, start_around
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import ConvNormReLU, TwoConvs
from napari_attnseg.models.encoder_base import Encoder
from napari_attnseg.models.unet import UDecoder, UNet, plain_channels, plain_decoder


class CrossChannel(AttentionModule):
    """Channels of one map take up those of another with which they agree.

    Formula:
        A = softmax_j(X_i . G_j / sqrt(N))
        y = x + gamma * A G
    Symbols:
        X, G: features and context as matrices (C, N) of N positions
        gamma: one learned number, 0 at the start, where the module is the identity
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("channels",)
    emits: ClassVar[tuple[str, ...]] = ("matrix",)
    identity_at_start: ClassVar[bool] = True
    weighed_by: ClassVar[str] = "gamma"

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x_BCHW: Tensor, context: Tensor) -> Tensor:
        """Both (B, C, H, W), to the same."""
        x, g = x_BCHW.flatten(2), context.flatten(2)
        weights = torch.softmax(x @ g.mT * x.shape[2] ** -0.5, -1)
        if self.probe is not None:
            self.probe.note("channels", weights, "matrix")
        return x_BCHW + self.gamma * (weights @ g).view_as(x_BCHW)


class TwoStreams(Encoder):
    """Per level and phase two convolutions, then a 1x1 one of both phases; 2x2 maxima between
    levels. Features of a level are those of both phases, side by side."""

    title = "M3-Net's own"

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.paired = in_channels % 2 == 0
        first = in_channels // 2 if self.paired else in_channels
        steps = list(pairwise((first, *channels)))
        self.blocks = nn.ModuleList(
            nn.ModuleList(TwoConvs(inside, outside) for _ in range(2)) for inside, outside in steps
        )
        self.links = nn.ModuleList(
            nn.ModuleList(ConvNormReLU(2 * c, c, 1) for _ in range(2)) for c in channels
        )
        self.pool = nn.MaxPool2d(2)
        self.channels = tuple(2 * c for c in channels)
        self.strides = tuple(2**i for i in range(len(channels)))

    def phases(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What each encoder sees."""
        if not self.paired:
            return x_BCHW, x_BCHW
        one, two = x_BCHW.chunk(2, 1)
        return one, two

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        one, two = self.phases(x_BCHW)
        features: list[Tensor] = []
        for blocks, links in zip(self.blocks, self.links, strict=True):
            if features:
                one, two = self.pool(one), self.pool(two)
            one, two = blocks[0](one), blocks[1](two)  # type: ignore[index]
            both = torch.cat([one, two], 1)
            one, two = links[0](both), links[1](both)  # type: ignore[index]
            features.append(torch.cat([one, two], 1))
        return tuple(features)


class CrossPhase(nn.Module):
    """Location, then channel attention of each phase to the other; joined by a 1x1 convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        words = [(1, 2), (2, 1)]
        self.location = nn.ModuleList(
            Standing(
                create_attention("cross", channels, context_channels=channels),
                f"positions of phase {own} in phase {other}",
                stride,
            )
            for own, other in words
        )
        self.channel = nn.ModuleList(
            Standing(CrossChannel(), f"channels of phase {own} in phase {other}", stride)
            for own, other in words
        )
        self.join = ConvNormReLU(2 * channels, channels, 1)

    def forward(self, at: Strengths, both: Tensor) -> Tensor:
        one, two = both.chunk(2, 1)
        for pair in (self.location, self.channel):
            one, two = pair[0](at, one, two), pair[1](at, two, one)
        joined: Tensor = self.join(torch.cat([one, two], 1))
        return joined


class M3Net(Attentive, UNet):
    """A :class:`UNet` over two streams, with ``across`` and ``merges`` (1x1, one per skip)."""

    def __init__(
        self, encoder: TwoStreams, decoder: UDecoder, head: nn.Module, channels: tuple[int, ...]
    ) -> None:
        super().__init__(encoder, decoder, head)
        self.merges = nn.ModuleList(ConvNormReLU(2 * c, c, 1) for c in channels[:-1])
        self.across = CrossPhase(channels[-1], self.stride)
        self.name_levels()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        skips = (merge(f) for merge, f in zip(self.merges, features[:-1], strict=True))
        return Encoded(features[-1], (h, w), tuple(skips))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        deepest = self.across(self.strengths(values), encoded.features)
        return self.decoder(deepest, encoded.skips)


@register_model(
    title="M3-Net (two phases)",
    paper="Qu et al.: M3Net: A multi-scale multi-view framework for multi-phase pancreas "
    "segmentation based on cross-phase non-local attention (Medical Image Analysis 75, 2022), our "
    "reading",
)
def m3_net(in_channels: int = 2, classes: int = 1, width: float = 1.0, levels: int = 4) -> M3Net:
    """``width`` multiplies all channels; ``levels``: how often the size is halved."""
    channels = plain_channels(width, levels)
    model = M3Net(
        TwoStreams(in_channels, channels),
        plain_decoder(channels),
        nn.Conv2d(channels[0], classes, 1),
        channels,
    )
    start_around(model)
    return model
