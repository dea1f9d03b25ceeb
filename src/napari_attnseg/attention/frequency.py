"""Frequency channel attention (Qin et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import cos, pi, sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Bottleneck, Gating, over, pooled
from napari_attnseg.errors import InputError

GRID = 7
SELECTIONS = ("best", "low")
_BEST = "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22"
BEST = [(int(pair[0]), int(pair[1])) for pair in _BEST.split()]
"""The sixteen frequencies of a 7 x 7 grid that did best one at a time on ImageNet, best first: the
paper's ranking."""


def basis(frequency: tuple[int, ...], side: int = GRID) -> Tensor:
    """One orthonormal cosine pattern (DCT-II) on a grid of ``side`` along every axis."""
    out = torch.ones(())
    for u in frequency:
        scale = sqrt((1 if u == 0 else 2) / side)
        wave = [scale * cos(pi * u * (i + 0.5) / side) for i in range(side)]
        out = out.unsqueeze(-1) * torch.tensor(wave)
    return out


def lowest(count: int, ndim: int) -> list[tuple[int, ...]]:
    """The ``count`` lowest frequencies of a grid, by their sum."""
    every = product(range(GRID), repeat=ndim)
    return sorted(every, key=lambda f: (sum(f), max(f), f))[:count]


@register_attention(
    "frequency",
    id="A30",
    title="Frequency channel attention",
    paper="Qin, Zhang, Wu & Li: FcaNet: Frequency Channel Attention Networks (ICCV 2021)",
    kinds=("channel",),
    ndim=(2, 3),
)
class FrequencyChannel(Gating):
    """Squeeze-and-excitation whose squeeze looks at one spatial frequency per group of channels.

    Formula:
        z_c = sum over a 7 x 7 grid of B_c * pool(x_c)
        s = sigmoid(W2 relu(W1 z))
        y = x * s
    Symbols:
        x, y: features (B, C, N)
        pool: mean over the cells of a 7 x 7 (x 7) grid
        B_c: orthonormal cosine pattern (DCT) of the group that channel c belongs to
        z, s: one number per channel (B, C)
        W1: C to C / r, W2: C / r to C, no biases
    Cost:
        N C multiply-adds; 2 C^2 / r weights
    Notes:
        Frequency (0, 0) alone is squeeze-and-excitation, with z 7 times the mean. The paper's
        sixteen best frequencies exist for images; volumes take the lowest. Channels are dealt out
        in order as evenly as they go (the original wants a multiple of 16).
    Args:
        frequencies: how many groups of channels, each with a frequency of its own
        selection: "best" (the paper's ranking) or "low" (the lowest)
        reduction: r
    """

    maps: ClassVar[tuple[str, ...]] = ("channels",)
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"selection": SELECTIONS}
    patterns: Tensor

    def __init__(
        self,
        channels: int,
        frequencies: int = 16,
        selection: str = "best",
        reduction: int = 16,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        best = self.checked("selection", selection) == "best" and ndim == 2
        most = len(BEST) if best else GRID**ndim
        if not 1 <= frequencies <= most:
            raise InputError(f"got frequencies={frequencies}, expected 1 to {most}")
        chosen: list[tuple[int, ...]] = [*BEST[:frequencies]] if best else lowest(frequencies, ndim)
        each = [chosen[c * frequencies // channels] for c in range(channels)]
        self.register_buffer("patterns", torch.stack([basis(f) for f in each]), persistent=False)
        self.mlp = Bottleneck(channels, reduction, bias=False)

    def squeeze(self, x_BCN: Tensor) -> Tensor:
        """z: (B, C)."""
        small = pooled(x_BCN, (GRID,) * (x_BCN.ndim - 2))
        return (small * self.patterns).flatten(2).sum(-1)

    def weights(self, x_BCN: Tensor) -> Tensor:
        s = torch.sigmoid(self.mlp(self.squeeze(x_BCN)))
        return self.shown("channels", over(s, x_BCN))
