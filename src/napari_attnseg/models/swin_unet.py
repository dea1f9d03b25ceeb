"""Swin-Unet (Cao et al., 2021): a U-shaped network of shifted-window transformers alone.

Patches of 4x4 pixels become tokens of 96 channels; every level has two Swin blocks (windows of
7x7, then shifted ones) of 3, 6, 12 and 24 heads. Downwards 2x2 tokens merge into one of twice the
channels, upwards a linear map makes four tokens of half the channels out of one; skips are joined
and brought to their channels by a linear map; at the end every token becomes 4x4 pixels.

As in the paper, for any image size: the image is padded to whole tokens on the coarsest grid, and
windows that reach over the border see what lies inside (public code asserts one fixed size). The
published ``depths`` of the decoder and its stochastic depth are left out: levels have ``depth``
blocks each, on either side, and nothing is dropped while training. The paper starts from ImageNet
weights of Swin-T; ours start at random. With 9 classes it has the 27.17 million parameters and, at
224x224, the 6.16 GFLOPs (multiply-adds) that comparisons print of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import create_attention
from napari_attnseg.attention.vit import ChannelNorm
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model

PATCH = 4
HEADS = 3
"""On the finest grid; twice as many on each coarser one."""
HEAD_CHANNELS = 32


class Merge(nn.Module):
    """2x2 tokens to one of twice the channels: joined, normalised, a linear map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(4 * channels)
        self.reduce = nn.Conv2d(4 * channels, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(F.pixel_unshuffle(x, 2)))


class Expand(nn.Module):
    """A token to ``times`` x ``times`` of ``outside`` channels: a linear map, dealt out,
    normalised."""

    def __init__(self, inside: int, outside: int, times: int = 2) -> None:
        super().__init__()
        self.times = times
        self.widen = nn.Conv2d(inside, outside * times**2, 1, bias=False)
        self.norm = ChannelNorm(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.pixel_shuffle(self.widen(x), self.times))


class SwinUNet(Attentive):
    """Parts: ``embed``; ``downs`` and ``ups`` (stages of blocks), ``merges``, ``expands`` and
    ``joins`` (finest first); ``bottom``; ``norm``, ``finish`` and ``head``."""

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], classes: int, window: int, depth: int
    ) -> None:
        super().__init__()
        steps = list(pairwise(channels))
        self.stride = PATCH * 2 ** len(steps)
        self.embed = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], PATCH, PATCH), ChannelNorm(channels[0])
        )

        def stage(level: int, title: str) -> Standing:
            heads = HEADS * 2**level
            swin = create_attention(
                "swin", channels[level], window=window, heads=heads, depth=depth
            )
            return Standing(swin, title, PATCH * 2**level)

        levels = range(len(steps))
        self.downs = nn.ModuleList(stage(i, f"encoder {i + 1}") for i in levels)
        self.bottom = stage(len(steps), "bottleneck")
        self.ups = nn.ModuleList(stage(i, f"decoder {i + 1}") for i in levels)
        self.merges = nn.ModuleList(Merge(own) for own, _ in steps)
        self.expands = nn.ModuleList(Expand(below, own) for own, below in steps)
        self.joins = nn.ModuleList(nn.Conv2d(2 * own, own, 1) for own, _ in steps)
        self.deepest = ChannelNorm(channels[-1])
        self.norm = ChannelNorm(channels[0])
        self.finish = Expand(channels[0], channels[0], PATCH)
        self.head = nn.Conv2d(channels[0], classes, 1)
        self.apply(_start)
        self.name_levels()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """The tokens: attention begins on the finest grid."""
        h, w = x_BCHW.shape[-2:]
        return Encoded(self.embed(pad_to_multiple(x_BCHW, self.stride)), (h, w))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        y, skips = encoded.features, []
        for stage, merge in zip(self.downs, self.merges, strict=True):
            skips.append(stage(at, y))
            y = merge(skips[-1])
        y = self.deepest(self.bottom(at, y))
        for level in reversed(range(len(skips))):
            joined = torch.cat([self.expands[level](y), skips[level]], 1)
            y = self.ups[level](at, self.joins[level](joined))
        return self.norm(y)

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(self.finish(features))[..., : size[0], : size[1]]


def _start(module: nn.Module) -> None:
    """As vision transformers begin: small weights, no biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register_model(
    title="Swin-Unet",
    paper="Cao et al.: Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation "
    "(arXiv:2105.05537, 2021)",
)
def swin_unet(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    levels: int = 3,
    window: int = 7,
    depth: int = 2,
) -> SwinUNet:
    """``width`` multiplies all channels; ``levels``: how often tokens merge (4x4 pixels at first);
    ``window``: tokens along a side; ``depth``: blocks of every level."""
    if not 1 <= levels <= 5:
        raise InputError(f"got levels={levels}, expected 1 to 5 (the paper has 3)")
    if not width > 0:
        raise InputError(f"got width={width}, expected a number above 0 (1.0 is the full net)")
    first = HEADS * max(1, round(HEAD_CHANNELS * width))
    channels = tuple(first * 2**i for i in range(levels + 1))
    return SwinUNet(in_channels, channels, classes, window, depth)
