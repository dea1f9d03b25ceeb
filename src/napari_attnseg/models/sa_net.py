"""SA-Net (Hu et al., PLoS ONE 2021): a U-shaped network that weighs features of several scales.

The paper extracts features of different scales in a residual module and lets an attention choose
among them; neither its exact block nor code was at hand. This is our reading of it: every level of
the encoder is a block of Res2Net (Gao et al., TPAMI 2021) whose groups, each of which has seen one
3x3 convolution more than the one before, are weighed position by position by branch attention
(softmax over the groups, scored by a 1x1 and a 3x3 convolution). The channels, the halving by 2x2
maxima and the decoder are the standard U-Net's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.attention.layers import conv, squeezed
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing, Strengths, start_around
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import ConvNormReLU
from napari_attnseg.models.encoder_base import Encoder
from napari_attnseg.models.unet import UNet, plain_channels, plain_decoder


class GroupAttention(AttentionModule):
    """Groups of channels, weighed at every position.

    Formula:
        A = softmax over n of score(x)
        y_n = s A_n * x_n
    Symbols:
        x_n, y_n: the n-th of s groups of channels (B, C / s, H, W)
        score: 1x1 convolution C to C / 2, ReLU, 3x3 convolution to s maps
    Notes:
        The factor s leaves the groups as they are where all weights are equal.
    """

    maps: ClassVar[tuple[str, ...]] = ("scales",)
    emits: ClassVar[tuple[str, ...]] = ("branch",)

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        middle = squeezed(channels, 2)
        self.score = nn.Sequential(conv(2, channels, middle), nn.ReLU(), conv(2, middle, groups, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        weights = torch.softmax(self.score(x_BCHW), 1)
        if self.probe is not None:
            labels = tuple(f"scale {i + 1}" for i in range(self.groups))
            self.probe.note("scales", weights, "branch", labels=labels)
        grouped = x_BCHW.unflatten(1, (self.groups, -1))
        return (grouped * (self.groups * weights).unsqueeze(2)).flatten(1, 2)


class ScaleBlock(nn.Module):
    """Res2Net's residual block with :class:`GroupAttention` over its groups."""

    def __init__(self, inside: int, outside: int, scales: int, title: str, stride: int) -> None:
        super().__init__()
        own = max(1, outside // scales)
        self.scales = scales
        self.reduce = ConvNormReLU(inside, own * scales, 1)
        self.convs = nn.ModuleList(ConvNormReLU(own, own) for _ in range(scales - 1))
        self.attention = Standing(GroupAttention(own * scales, scales), title, stride)
        self.expand = _normed(own * scales, outside)
        self.shortcut = nn.Identity() if inside == outside else _normed(inside, outside)

    def groups(self, x: Tensor) -> Tensor:
        """``y_1 = x_1; y_n = K_n(x_n + y_{n-1})``, from the third on with the sum."""
        parts = x.chunk(self.scales, 1)
        found = [parts[0]]
        for i, layer in enumerate(self.convs):
            found.append(layer(parts[i + 1] + found[-1] if i else parts[1]))
        return torch.cat(found, 1)

    def forward(self, x: Tensor, at: Strengths) -> Tensor:
        y = self.attention(at, self.groups(self.reduce(x)))
        return torch.relu(self.expand(y) + self.shortcut(x))


def _normed(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside))


class ScaleEncoder(Encoder):
    """One :class:`ScaleBlock` per grid, 2x2 maxima between grids."""

    title = "SA-Net's own"

    def __init__(self, in_channels: int, channels: tuple[int, ...], scales: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ScaleBlock(inside, outside, scales, f"scales of level {i + 1}", 2**i)
            for i, (inside, outside) in enumerate(pairwise((in_channels, *channels)))
        )
        self.pool = nn.MaxPool2d(2)
        self.channels = channels
        self.strides = tuple(2**i for i in range(len(channels)))

    def forward(self, x_BCHW: Tensor, at: Strengths | None = None) -> tuple[Tensor, ...]:
        features: list[Tensor] = []
        for block in self.blocks:
            x_BCHW = block(self.pool(x_BCHW) if features else x_BCHW, at or {})
            features.append(x_BCHW)
        return tuple(features)


class SANet(Attentive, UNet):
    """A :class:`UNet` whose encoder weighs its scales."""

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """The padded image: attention begins on the finest grid."""
        h, w = x_BCHW.shape[-2:]
        return Encoded(pad_to_multiple(x_BCHW, self.stride), (h, w))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        features = self.encoder(encoded.features, self.strengths(values))
        return self.decoder(features[-1], features[:-1])


@register_model(
    title="SA-Net",
    paper="Hu et al.: SA-Net: A scale-attention network for medical image segmentation (PLoS ONE "
    "16(4), 2021), our reading",
)
def sa_net(
    in_channels: int = 3,
    classes: int = 1,
    scales: int = 4,
    width: float = 1.0,
    levels: int = 4,
) -> SANet:
    """``scales``: groups of channels in every block, each with a larger receptive field than the
    one before; ``width`` multiplies all channels; ``levels``: how often the size is halved."""
    if not 2 <= scales <= 8:
        raise InputError(f"got scales={scales}, expected 2 to 8 (Res2Net has 4)")
    channels = plain_channels(width, levels)
    model = SANet(
        ScaleEncoder(in_channels, channels, scales),
        plain_decoder(channels),
        nn.Conv2d(channels[0], classes, 1),
    )
    model.name_levels()
    start_around(model)
    return model
