"""CaraNet (Lou et al., SPIE Medical Imaging 2022): what a coarse map missed is looked for again.

Features of strides 8, 16 and 32 of a Res2Net each pass a branch of 32 channels; a partial decoder
(Wu et al., CVPR 2019) makes a coarse map of stride 8 out of them. From the coarsest grid to the
finest, the branch passes a channel-wise feature pyramid and attention along columns and rows, what
the map so far has found is taken away from it (reverse attention), and three convolutions say what
must be added to the map. All four maps learn the target (``auxiliary``, weighted as all auxiliary
losses are; the paper weighs them equally).

Follows the paper. The published code mixes along the same axis twice under the names of height and
width, has a sigmoid in place of the softmax, and uses one pyramid for two levels; here columns and
rows are really apart, weights sum to 1 and every level has a pyramid of its own. Our choices: the
convolutions of the partial decoder and the pyramid's shares of channels are as in the papers they
come from; the encoder starts at random (of its published size, for which no weights are offered
here); the last map lies on the grid of stride 8 and is resized bilinearly; with several classes
"found" means any but the background.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.layers import resized
from napari_attnseg.attention.reverse import ReverseAttention
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import ConvNormReLU, scaled
from napari_attnseg.models.res2net import PLANS, Res2Net

SIDE = 32
"""Channels of the side branches."""


def normed(inside: int, outside: int) -> nn.Module:
    """3x3 convolution and normalisation."""
    return nn.Sequential(nn.Conv2d(inside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))


class PartialDecoder(nn.Module):
    """Three maps of C channels on grids of n, 2n and 4n positions a side to class scores on the
    finest: deeper maps, doubled and convolved, first multiply finer ones and are then joined."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        c = channels
        self.by_one = nn.ModuleList(normed(c, c) for _ in range(3))
        self.joined = nn.ModuleList([normed(c, c), normed(2 * c, 2 * c)])
        self.two = normed(2 * c, 2 * c)
        self.three = normed(3 * c, 3 * c)
        self.last = nn.Sequential(normed(3 * c, 3 * c), nn.Conv2d(3 * c, classes, 1))

    def forward(self, fine: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        doubled = _twice(deep)
        two = self.by_one[0](doubled) * middle
        three = self.by_one[1](_twice(doubled)) * self.by_one[2](_twice(middle)) * fine
        two = self.two(torch.cat([two, self.joined[0](doubled)], 1))
        three = self.three(torch.cat([three, self.joined[1](_twice(two))], 1))
        found: Tensor = self.last(three)
        return found


def _twice(x: Tensor) -> Tensor:
    return resized(x, (2 * x.shape[2], 2 * x.shape[3]))


class FeaturePyramid(nn.Module):
    """Channel-wise feature pyramid (Lou & Loew, CFPNet 2021): four branches of three 3x3
    convolutions one after the other, whose results are kept side by side; branches of larger
    dilation are summed up onto smaller ones, all are joined and added to the input."""

    def __init__(self, channels: int, dilation: int = 8) -> None:
        super().__init__()
        inner, part = max(1, channels // 4), max(1, channels // 16)
        widths = (inner, part, part, max(1, inner - 2 * part))
        rates = (1, dilation // 4 + 1, dilation // 2 + 1, dilation + 1)
        self.enter = nn.Sequential(
            nn.BatchNorm2d(channels), nn.PReLU(channels), ConvNormReLU(channels, inner)
        )
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvNormReLU(i, o, dilation=rate) for i, o in pairwise(widths))
            for rate in rates
        )
        wide = len(rates) * sum(widths[1:])
        self.leave = nn.Sequential(
            nn.BatchNorm2d(wide), nn.PReLU(wide), nn.Conv2d(wide, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        sums: list[Tensor] = []
        for branch in self.branches:
            y, kept = entered, []
            for layer in branch:  # type: ignore[attr-defined]
                y = layer(y)
                kept.append(y)
            own = torch.cat(kept, 1)
            sums.append(own + sums[-1] if sums else own)
        return x + self.leave(torch.cat(sums, 1))


class AxialReverse(ReverseAttention):
    """Reverse attention with axial attention before it, under the map so far: forward takes the
    features (B, C, h, w) and the class scores (B, classes, h', w')."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, axial=True)
        self.coarse = nn.Identity()  # the scores come from outside

    def logits(self, skip_BCN: Tensor, context: Tensor) -> Tensor:
        """Log-odds of anything but background, on the features' grid."""
        if context.shape[1] > 1:
            context = context[:, 1:].logsumexp(1, keepdim=True) - context[:, :1]
        return resized(context, skip_BCN.shape[2:])


class Level(nn.Module):
    """One look: features (B, C, h, w) and the scores so far to better scores (B, classes, h, w)."""

    def __init__(self, channels: int, classes: int, stride: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(channels)
        self.reverse = Standing(AxialReverse(channels), "reverse attention", stride)
        self.refine = nn.Sequential(
            ConvNormReLU(channels, channels),
            ConvNormReLU(channels, channels),
            nn.Conv2d(channels, classes, 3, 1, 1),
        )

    def forward(self, at: Any, x: Tensor, scores: Tensor) -> Tensor:
        scores = resized(scores, x.shape[2:])
        y = self.reverse(at, self.pyramid(x), scores)
        return scores + self.refine(y)


class CaraNet(Attentive):
    """Parts: ``encoder``, ``sides`` and ``levels`` (finest first), ``partial``."""

    def __init__(self, encoder: Res2Net, classes: int, side: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stride = encoder.strides[-1]
        used = list(zip(encoder.channels, encoder.strides, strict=True))[-3:]
        self.sides = nn.ModuleList(ConvNormReLU(channels, side) for channels, _ in used)
        self.partial = PartialDecoder(side, classes)
        self.levels = nn.ModuleList(Level(side, classes, stride) for _, stride in used)
        self.name_levels()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """The coarse map, and the side branches."""
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))[-3:]
        sides = tuple(side(f) for side, f in zip(self.sides, features, strict=True))
        return Encoded(self.partial(*sides), (h, w), sides)

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        """The finest map, (B, classes, h, w) of stride 8."""
        at = self.strengths(values)
        maps = [encoded.features]
        for level, side in reversed(list(zip(self.levels, encoded.skips, strict=True))):
            maps.append(level(at, side, maps[-1]))
        training = self.training
        self.auxiliary = tuple(self.decode(m, encoded.size) for m in maps[:-1]) if training else ()
        return maps[-1]

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        padded = tuple(n + -n % self.stride for n in size)
        return resized(features, padded)[..., : size[0], : size[1]]


@register_model(
    title="CaraNet",
    paper="Lou et al.: CaraNet: Context Axial Reverse Attention Network for Segmentation of Small "
    "Medical Objects (SPIE Medical Imaging 2022)",
    choices={"plan": tuple(PLANS)},
)
def cara_net(
    in_channels: int = 3,
    classes: int = 1,
    plan: str = "101",
    width: float = 1.0,
    scales: int = 4,
) -> CaraNet:
    """``plan``: layers of the Res2Net (101, as the paper; 50; tiny); ``width`` multiplies all
    channels; ``scales``: groups of channels in its blocks."""
    if plan not in PLANS:
        raise InputError(f"got plan={plan!r}, expected one of {', '.join(PLANS)}")
    encoder = Res2Net(in_channels, plan, width, scales)
    return CaraNet(encoder, classes, scaled(SIDE, width))
