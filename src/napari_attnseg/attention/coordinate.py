"""Coordinate attention (Hou, Zhou and Feng, CVPR 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Gating, Norm, space, squeezed
from napari_attnseg.attention.recording import Geometry


@register_attention(
    "coordinate",
    id="A07",
    title="Coordinate attention",
    paper="Hou, Zhou & Feng: Coordinate Attention for Efficient Mobile Network Design (CVPR 2021)",
    kinds=("axes", "spatial"),
    ndim=(2, 3),
)
class CoordinateAttention(Gating):
    """One weight per channel and row, and one per channel and column: their product is the gate.

    Formula:
        p_a = mean of x over all axes but a
        f = hardswish(norm(W [p_1, p_2]))
        g_a = sigmoid(W_a f_a)
        y = x * g_1 * g_2
    Symbols:
        x, y: features (B, C, H, W), or (B, C, D, H, W) with a third profile
        p_a: profile along axis a (B, C, n_a)
        f: (B, m, n_1 + n_2), m = max(8, C / r); W is shared by the axes
        g_a: gate along axis a (B, C, n_a)
    Cost:
        N C + 3 (H + W) C m multiply-adds; the maps have C (H + W) numbers
    Notes:
        The gate of a channel is an outer product (rank 1). The convolution before the
        normalisation has no bias.
    Args:
        reduction: r
        least: fewest channels in the middle
    """

    maps: ClassVar[tuple[str, ...]] = ("depth", "rows", "columns", "gate")

    def __init__(self, channels: int, reduction: int = 32, least: int = 8, ndim: int = 2) -> None:
        super().__init__()
        middle = squeezed(channels, reduction, least)
        self.shared = nn.Sequential(
            nn.Conv1d(channels, middle, 1, bias=False), Norm(middle), nn.Hardswish()
        )
        self.gates = nn.ModuleList(nn.Conv1d(middle, channels, 1) for _ in range(ndim))

    def profiles(self, x_BCN: Tensor) -> list[Tensor]:
        """g_a of every axis: (B, C, n_a)."""
        axes = space(x_BCN)
        means = [x_BCN.mean([b for b in axes if b != a]) for a in axes]
        parts = self.shared(torch.cat(means, -1)).split(list(x_BCN.shape[2:]), -1)
        return [torch.sigmoid(gate(f)) for gate, f in zip(self.gates, parts, strict=True)]

    def weights(self, x_BCN: Tensor) -> Tensor:
        profiles = self.profiles(x_BCN)
        product: Tensor | float = 1.0
        for axis, g in enumerate(profiles):
            shape = [1] * len(profiles)
            shape[axis] = g.shape[-1]
            product = product * g.unflatten(-1, shape)
        assert isinstance(product, Tensor)
        if self.probe is not None:
            names = self.maps[3 - len(profiles) : 3]
            for axis, (name, g) in enumerate(zip(names, profiles, strict=True)):
                self.probe.note(name, g, "axes", axis=axis)
            self.probe.note("gate", product, "spatial", Geometry(len(profiles)))
        return product
