"""ANU-Net (Li et al., Computers & Graphics 90, 2020): UNet++ with attention gates at its merges.

Between encoder and decoder of a U-Net lie further nodes: node j of level i joins all earlier nodes
of its level with the doubled node j - 1 of the level below. What comes from its own level passes an
additive gate whose signal is what comes from below. Every node of the finest level but the
encoder's has a head; the last one answers, the others learn the same target (deep supervision).

Faithful: the grid, channels 32 to 512, gates with normalised products, deep supervision. Our
reading: one gate decides about all earlier nodes of a level together; ``gates="all"`` (default)
puts one at every merge, ``gates="last"`` at the last node of each level alone, as a class of the
first author's code does. The paper's loss of three terms is not part of the network: losses are
chosen in the training settings, and those of the other heads count with the engine's weight of
auxiliary logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import create_attention
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing, start_around
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import TwoConvs, scaled
from napari_attnseg.models.unet import PlainEncoder

FIRST = 32
"""Channels of the finest level; each level below has twice as many."""
GATES = ("all", "last", "none")


class Node(nn.Module):
    """Node ``column`` of a level: (earlier nodes of its level, node below) to its features."""

    def __init__(self, own: int, below: int, column: int, gated: bool, level: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, own, 2, 2)
        self.gate: Standing | None = None
        if gated:
            made = create_attention(
                "attention_gate",
                own * column,
                context_channels=own,
                inner=max(1, own // 2),
                norm=True,
            )
            self.gate = Standing(made, f"level {level + 1}, merge {column}", 2**level)
        self.block = TwoConvs(own * (column + 1), own)

    def forward(self, at: Any, earlier: list[Tensor], below: Tensor) -> Tensor:
        up = self.up(below)
        across = torch.cat(earlier, 1)
        if self.gate is not None:
            across = self.gate(at, across, up)
        y: Tensor = self.block(torch.cat([across, up], 1))
        return y


class ANUNet(Attentive):
    """Parts: ``encoder``, ``nodes`` (``nodes[j - 1][i]`` is node j of level i), ``heads``."""

    def __init__(
        self, in_channels: int, classes: int, channels: tuple[int, ...], gates: str
    ) -> None:
        super().__init__()
        self.encoder = PlainEncoder(in_channels, channels)
        depth = len(channels) - 1
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                Node(
                    channels[i],
                    channels[i + 1],
                    j,
                    gates == "all" or (gates == "last" and i + j == depth),
                    i,
                )
                for i in range(depth - j + 1)
            )
            for j in range(1, depth + 1)
        )
        self.heads = nn.ModuleList(nn.Conv2d(channels[0], classes, 1) for _ in range(depth))
        self.stride = self.encoder.strides[-1]
        self.name_levels()
        start_around(self)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(features[-1], (h, w), features[:-1])

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        rows = [[y] for y in (*encoded.skips, encoded.features)]
        for column in self.nodes:
            # column by column: a node needs the one before it on the level below
            new = [node(at, rows[i], rows[i + 1][-1]) for i, node in enumerate(column)]
            for row, y in zip(rows, new, strict=False):
                row.append(y)
        self.auxiliary = ()
        if self.training:
            pairs = zip(self.heads[:-1], rows[0][1:-1], strict=True)
            self.auxiliary = tuple(self._scores(head, y, encoded.size) for head, y in pairs)
        return rows[0][-1]

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self._scores(self.heads[-1], features, size)

    def _scores(self, head: nn.Module, y: Tensor, size: tuple[int, int]) -> Tensor:
        scores: Tensor = head(y)[..., : size[0], : size[1]]
        return scores


@register_model(
    title="ANU-Net",
    paper="Li et al.: ANU-Net: Attention-based Nested U-Net to Exploit Full Resolution Features "
    "for Medical Image Segmentation (Computers & Graphics 90, 2020)",
    choices={"gates": GATES},
)
def anu_net(
    in_channels: int = 3,
    classes: int = 1,
    gates: str = "all",
    width: float = 1.0,
    levels: int = 4,
) -> ANUNet:
    """``gates``: at all merges, at the last of each level, or none (UNet++); ``width`` multiplies
    all channels; ``levels``: how often the size is halved."""
    if gates not in GATES:
        raise InputError(f"got gates={gates!r}, expected one of {', '.join(GATES)}")
    if not 1 <= levels <= 6:
        raise InputError(f"got levels={levels}, expected 1 to 6 (the paper has 4)")
    channels = tuple(scaled(FIRST * 2**i, width) for i in range(levels + 1))
    return ANUNet(in_channels, classes, channels, gates)
