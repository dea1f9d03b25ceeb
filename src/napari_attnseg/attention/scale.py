"""Scale attention over the decoder's outputs (CA-Net, Gu et al., TMI 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, register_attention
from napari_attnseg.attention.layers import (
    Bottleneck,
    Norm,
    conv,
    largest,
    mean,
    over,
    resized,
)
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError


@register_attention(
    "scale",
    id="A17",
    title="Scale attention",
    paper="Gu et al.: CA-Net: Comprehensive Attention Convolutional Neural Networks for "
    "Explainable Medical Image Segmentation (TMI 2021)",
    kinds=("branch", "channel"),
    ndim=(2, 3),
)
class ScaleAttention(AttentionModule):
    """Maps of several resolutions are brought together; each scale counts as much as it helps.

    Formula:
        F = [up(P_1 x_1), ..., up(P_S x_S)]
        g_s = mean over the channels of scale s of sigmoid(MLP(mean F) + MLP(max F))
        m_s = sigmoid(conv1(relu(conv3(g_s F_s))))
        y = relu(norm(conv3([g_s F_s (1 + m_s) + F_s, over all s])))
    Symbols:
        x_s: map of scale s (B, C_s, N_s), finest first; y: (B, C_out, N_1)
        P_s: 1 x 1 to c channels; up: linear, to the finest grid; F: (B, S c, N_1)
        g_s: one number per scale (B, S); m_s: one number per position and scale (B, S, N_1)
        MLP: S c to S c / r to S c, the same for mean and maximum
    Cost:
        N sum_s C_s c + 9 N S c^2 + 9 N S c C_out multiply-adds; the map has S N numbers
    Notes:
        The picture shows each scale's share of the factors g_s (1 + m_s) + 1, which sum to 1 after
        division by their total. Any number of maps of any sizes; no fixed pooling windows.
    Args:
        inner: c, channels of each scale
        reduction: r
    """

    role: ClassVar[Role] = "fuser"
    maps: ClassVar[tuple[str, ...]] = ("scales", "weights")

    def __init__(
        self,
        channels: Sequence[int] | int,
        out_channels: int | None = None,
        inner: int = 4,
        reduction: int = 4,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        each = (channels,) * 4 if isinstance(channels, int) else tuple(channels)
        if not each or inner < 1:
            raise InputError(f"got channels={channels}, inner={inner}, expected at least one map")
        self.scales, self.inner, whole = len(each), inner, len(each) * inner
        self.project = nn.ModuleList(conv(ndim, c, inner) for c in each)
        self.mlp = Bottleneck(whole, reduction)
        self.spatial = nn.Sequential(
            conv(ndim, whole, whole, 3, groups=self.scales),
            nn.ReLU(),
            conv(ndim, whole, self.scales, groups=self.scales),
        )
        out = out_channels or each[0]
        self.fuse = nn.Sequential(conv(ndim, whole, out, 3, bias=False), Norm(out), nn.ReLU())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to (B, C_out, grid of the finest)."""
        if len(maps) != self.scales:
            raise InputError(f"got {len(maps)} maps, expected {self.scales}")
        size = maps[0].shape[2:]
        whole = torch.cat([resized(p(x), size) for p, x in zip(self.project, maps, strict=True)], 1)
        scores = torch.sigmoid(self.mlp(mean(whole)) + self.mlp(largest(whole)))
        g_BS = scores.unflatten(1, (self.scales, self.inner)).mean(2)
        weighted = whole * over(self._spread(g_BS), whole)
        m_BSN = torch.sigmoid(self.spatial(weighted))
        if self.probe is not None:
            self._show(g_BS, m_BSN)
        y: Tensor = self.fuse(weighted * (1 + self._spread(m_BSN)) + whole)
        return y

    def _spread(self, per_scale: Tensor) -> Tensor:
        """(B, S, ...) to (B, S c, ...)."""
        return per_scale.repeat_interleave(self.inner, 1)

    def _show(self, g_BS: Tensor, m_BSN: Tensor) -> None:
        assert self.probe is not None
        factor = 1 + over(g_BS, m_BSN) * (1 + m_BSN)
        labels = tuple(f"scale {s + 1}" for s in range(self.scales))
        share = factor / factor.sum(1, keepdim=True)
        where = Geometry(m_BSN.ndim - 2)
        self.probe.note("scales", share, "branch", where, labels=labels)
        self.probe.note("weights", g_BS, "channel", labels=labels)
