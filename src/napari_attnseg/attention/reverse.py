"""Reverse attention (Fan et al., PraNet, MICCAI 2020; CaraNet, Lou et al., SPIE 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, Structure, register_attention
from napari_attnseg.attention.layers import Norm, conv, resized
from napari_attnseg.attention.recording import Geometry


@register_attention(
    "reverse",
    id="A34",
    title="Reverse attention",
    paper="Fan et al.: PraNet: Parallel Reverse Attention Network for Polyp Segmentation (MICCAI "
    "2020); Lou et al.: CaraNet (SPIE Medical Imaging 2022)",
    kinds=("spatial", "signed"),
    ndim=(2, 3),
)
class ReverseAttention(AttentionModule):
    """What a coarse answer has found already is taken away from the skip: the rest is looked at.

    Formula:
        l = up(W g)
        y = x * (1 - sigmoid(l))
        refined = conv3(y) + l
    Symbols:
        x, y: skip and its answer (B, C, N)
        g: features from below (B, C_g, n); W: 1 x 1 to one coarse logit; up: linear
        refined: a better logit (B, 1, N), for a loss on the side
    Cost:
        n C_g + N C multiply-adds, 9 N C for the refined logit; the map has N numbers
    Notes:
        The published networks take the coarse logit of the stage before; here it is read off the
        features from below by W, so that the gate can stand at any skip (refined gives the next
        one). side=True also computes the refined logit and keeps it in refined while training.
        axial=True passes the skip through attention along every axis first, with rows and
        columns really apart; in the published code both directions look along the last axis.
    Args:
        side: whether refined is computed, for deep supervision
        axial: attention along the axes before the gate, as in CaraNet
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("gate", "coarse")
    structure: ClassVar[Structure] = "diagonal"

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        side: bool = False,
        axial: bool = False,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.coarse = conv(ndim, context_channels or channels, 1)
        self.look = _AxialLook(channels, ndim) if axial else nn.Identity()
        self.refine = conv(ndim, channels, 1, 3) if side else None
        self.refined: Tensor | None = None

    def logits(self, skip_BCN: Tensor, context: Tensor) -> Tensor:
        """l: (B, 1, N) on the skip's grid."""
        return resized(self.coarse(context), skip_BCN.shape[2:])

    def forward(self, skip_BCN: Tensor, context: Tensor) -> Tensor:
        """The skip with what is found taken away; ``refined`` is set where ``side`` asks for it."""
        logits = self.logits(skip_BCN, context)
        gate = torch.sigmoid(-logits)
        if self.probe is not None:
            where = Geometry(skip_BCN.ndim - 2)
            self.probe.note("gate", gate.squeeze(1), "spatial", where)
            self.probe.note("coarse", logits.squeeze(1), "signed", where)
        y: Tensor = self.look(skip_BCN) * gate
        if self.refine is not None:
            refined = self.refine(y) + logits
            self.refined = refined if self.training else None
        return y

    def operator(self, *inputs: Tensor) -> Tensor:
        return torch.diag_embed(torch.sigmoid(-self.logits(*inputs)).flatten(2))

    def values(self, *inputs: Tensor) -> Tensor:
        return super().values(self.look(inputs[0]))


class _AxialLook(nn.Module):
    """1 x 1 and 3 x 3 convolution, then self-attention along each axis in turn, added."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.before = nn.Sequential(
            conv(ndim, channels, channels, bias=False),
            Norm(channels),
            nn.ReLU(),
            conv(ndim, channels, channels, 3, bias=False),
            Norm(channels),
            nn.ReLU(),
        )
        self.axes = nn.ModuleList(_Line(channels, inner, axis + 2, ndim) for axis in range(ndim))

    def forward(self, x_BCN: Tensor) -> Tensor:
        y: Tensor = self.before(x_BCN)
        for line in self.axes:
            y = line(y)
        return y


class _Line(nn.Module):
    """``x + gamma * softmax(q k') v`` along one axis."""

    weighed_by: ClassVar[str] = "gamma"

    def __init__(self, channels: int, inner: int, axis: int, ndim: int) -> None:
        super().__init__()
        self.axis = axis
        self.query, self.key = (conv(ndim, channels, inner, bias=False) for _ in range(2))
        self.value = conv(ndim, channels, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x_BCN: Tensor) -> Tensor:
        q, k, v = (
            f(x_BCN).movedim(self.axis, -1).movedim(1, -1)
            for f in (self.query, self.key, self.value)
        )
        mixed = torch.softmax(q @ k.mT, -1) @ v
        return x_BCN + self.gamma * mixed.movedim(-1, 1).movedim(-1, self.axis)
