"""CA-Net (Gu et al., TMI 2021): attention over positions, channels and scales in one U-Net.

A U-Net of 16 to 256 channels. Over positions: a non-local block on the deepest merge, and at the
two skips above it two additive gates side by side, joined by a 1x1 convolution. Over channels: the
convolutions of every decoder level are a residual block whose middle is weighted by
squeeze-and-excitation of the means and of the maxima, both counted. Over scales: the four decoder
outputs are brought together by scale attention.

As in the authors' code: which skips have gates, the widths inside (c = C / 4 of the non-local
block with keys from the maxima of 2x2 positions, C of the gates, C / 4 of channel attention, 4
channels per scale). Different: pooling is over the whole map (there over windows of one fixed
image size, here any size works), odd sizes are padded by repeating the border (there by random
numbers), the non-local block has no normalisation at its end, and there is no dropout (there it
stays on while predicting). 2.78 million parameters for three channels and two classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, create_attention
from napari_attnseg.attention.layers import Bottleneck, Gating, largest, mean, over
from napari_attnseg.models.attentive import Attentive, Standing, Strengths, start_around
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import ConvNormReLU, resized, scaled
from napari_attnseg.models.unet import PlainEncoder

CHANNELS = (16, 32, 64, 128, 256)
"""Of the five grids, finest first."""
SCALE = 4
"""Channels of each scale, and of their fusion."""
GATED = (1, 2)
"""Levels whose skips have gates."""


class MeanAndMaximum(Gating):
    """One weight per channel: ``sigmoid(MLP(mean x)) + sigmoid(MLP(max x))``, one MLP for both."""

    maps: ClassVar[tuple[str, ...]] = ("channels",)
    emits: ClassVar[tuple[str, ...]] = ("channel",)

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.mlp = Bottleneck(channels, reduction)

    def weights(self, x_BCN: Tensor) -> Tensor:
        each = [torch.sigmoid(self.mlp(pool(x_BCN))) for pool in (mean, largest)]
        return self.shown("channels", over(each[0] + each[1], x_BCN))


class DualGate(AttentionModule):
    """Two additive gates with one context; what both let through, joined by a 1x1 convolution."""

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("gate",)
    emits: ClassVar[tuple[str, ...]] = ("spatial",)

    def __init__(self, channels: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.gates = nn.ModuleList(
            create_attention(
                "attention_gate",
                channels,
                context_channels=context_channels,
                inner=channels,
                out=True,
            )
            for _ in range(2)
        )
        self.join = ConvNormReLU(2 * channels, channels, 1)

    def forward(self, skip: Tensor, context: Tensor) -> Tensor:
        """skip (B, C, H, W) and context (B, C_g, any grid) to the skip's shape."""
        context = resized(context, skip.shape[2:])
        y: Tensor = self.join(torch.cat([gate(skip, context) for gate in self.gates], 1))
        return y


class WeightedConvs(nn.Module):
    """``conv(relu(attention(norm(conv(conv(x)))) + norm(conv1(x))))`` with 3x3 convolutions, C to
    C_out, twice that and C_out; every convolution is normalised."""

    def __init__(self, inside: int, outside: int, where: str, stride: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(inside, outside)
        self.second = _normed(outside, 2 * outside, 3)
        self.attention = Standing(MeanAndMaximum(2 * outside), where, stride)
        self.shortcut = _normed(inside, 2 * outside, 1)
        self.third = ConvNormReLU(2 * outside, outside)

    def forward(self, at: Strengths, x: Tensor) -> Tensor:
        y = self.attention(at, self.second(self.first(x)))
        out: Tensor = self.third(torch.relu(y + self.shortcut(x)))
        return out


def _normed(inside: int, outside: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class CANet(Attentive):
    """Parts, finest first: ``encoder``, ``ups``, ``gates`` (by level), ``merge``, ``blocks``,
    ``scales`` and ``head``."""

    def __init__(self, in_channels: int, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = PlainEncoder(in_channels, channels)
        self.stride = self.encoder.strides[-1]
        steps = list(pairwise(channels))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below, own, 2, 2) for own, below in steps)
        self.gates = nn.ModuleDict(
            {
                str(i): Standing(
                    DualGate(channels[i], channels[i + 1]), f"skip {i + 1}, two gates", 2**i
                )
                for i in GATED
            }
        )
        own, deepest = channels[-2], len(steps) - 1
        nonlocal_block = create_attention(
            "nonlocal", 2 * own, inner_channels=max(1, own // 2), pool=2
        )
        self.merge = Standing(nonlocal_block, f"decoder {deepest + 1}, non-local", 2**deepest)
        self.blocks = nn.ModuleList(
            WeightedConvs(2 * own, own, f"decoder {i + 1}, channels", 2**i)
            for i, (own, _) in enumerate(steps)
        )
        scales = create_attention("scale", channels[:-1], out_channels=SCALE, inner=SCALE)
        self.scales = Standing(scales, "all decoder outputs, scales", 1)
        self.head = nn.Conv2d(SCALE, classes, 1)
        self.name_levels()
        start_around(self)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        y = encoded.features
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.blocks))):
            skip = encoded.skips[level]
            if level in GATED:
                skip = self.gates[str(level)](at, skip, y)
            joined = torch.cat([skip, self.ups[level](y)], 1)
            if not outputs:
                joined = self.merge(at, joined)
            y = self.blocks[level](at, joined)
            outputs.insert(0, y)
        fused: Tensor = self.scales(at, outputs)
        return fused

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]


@register_model(
    title="CA-Net",
    paper="Gu et al.: CA-Net: Comprehensive Attention Convolutional Neural Networks for "
    "Explainable Medical Image Segmentation (TMI 2021)",
)
def ca_net(in_channels: int = 3, classes: int = 1, width: float = 1.0) -> CANet:
    """``width`` multiplies all channels but the four of every scale."""
    return CANet(in_channels, classes, tuple(scaled(c, width) for c in CHANNELS))
