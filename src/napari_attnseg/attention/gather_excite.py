"""Gather-Excite (Hu et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import (
    Gating,
    Norm,
    conv,
    mean,
    over,
    pooled,
    resized,
    squeezed,
)
from napari_attnseg.errors import InputError

MODES = ("mean", "conv", "conv_mlp")
EXTENTS = (0, 2, 4, 8)


@register_attention(
    "gather_excite",
    id="A05",
    title="Gather-Excite",
    paper="Hu, Shen, Albanie, Sun & Vedaldi: Gather-Excite: Exploiting Feature Context in "
    "Convolutional Neural Networks (NeurIPS 2018)",
    kinds=("channel", "spatial"),
    ndim=(2, 3),
)
class GatherExcite(Gating):
    """Every channel is summed up over a neighbourhood of its own and weighted by the outcome.

    Formula:
        g = gather(x), on a grid e times coarser (e = 0: one number per channel)
        y = x * sigmoid(nearest(g))
    Symbols:
        x, y: features (B, C, N)
        gather, mean: average over windows of 2 e - 1, every e positions
        gather, conv: log2 e depthwise 3 x 3 convolutions with stride 2, normalised, ReLU between
        gather, conv_mlp: the same, then relu and W2 relu(W1 .), C to C / 16 to C
        nearest: brought back to the grid of x without interpolation
    Cost:
        mean: N C multiply-adds, no weights. conv: about 9 N C / 3. conv_mlp: N C^2 / (8 e^2) more
    Notes:
        The paper's names are theta-minus (mean), theta (conv) and theta-plus (conv_mlp, its best,
        with e global). Its global gathering by convolution has a kernel as large as the map, so
        it works for one image size alone; here the map is brought to a grid of fixed side first
        and the kernel covers that, which is the same on a map of that size. Borders of the mean
        count only what lies inside.
    Args:
        extent: e, 2, 4 or 8; 0 means the whole map
        mode: how x is gathered
        grid: side of the grid under the kernel of a global gathering by convolution
        reduction: C over the numbers in the middle of conv_mlp
    """

    maps: ClassVar[tuple[str, ...]] = ("gate", "channels")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES, "extent": EXTENTS}

    def __init__(
        self,
        channels: int,
        extent: int = 0,
        mode: str = "conv_mlp",
        grid: int = 8,
        reduction: int = 16,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.mode, self.extent = (
            str(self.checked("mode", mode)),
            int(self.checked("extent", extent)),
        )
        if grid < 1:
            raise InputError(f"got grid={grid}, expected at least 1")
        self.grid = (grid,) * ndim
        layers: list[nn.Module] = []
        if mode != "mean" and extent == 0:
            layers = [conv(ndim, channels, channels, grid, padding=0, groups=channels, bias=False)]
            layers.append(Norm(channels))
        elif mode != "mean":
            for _ in range(extent.bit_length() - 1):
                layers += [nn.ReLU()] if layers else []
                down = conv(ndim, channels, channels, 3, stride=2, groups=channels, bias=False)
                layers += [down, Norm(channels)]
        if mode == "conv_mlp":
            middle = squeezed(channels, reduction)
            layers += [nn.ReLU(), conv(ndim, channels, middle), nn.ReLU()]
            layers += [conv(ndim, middle, channels)]
        self.gather = nn.Sequential(*layers)

    def gathered(self, x_BCN: Tensor) -> Tensor:
        """g, (B, C, n): n positions of the coarser grid, or 1 along every axis."""
        if self.mode == "mean":
            if self.extent == 0:
                return over(mean(x_BCN), x_BCN)
            return _window_mean(x_BCN, self.extent)
        g: Tensor = self.gather(pooled(x_BCN, self.grid) if self.extent == 0 else x_BCN)
        return g

    def weights(self, x_BCN: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gathered(x_BCN))
        if self.extent == 0:
            return self.shown("channels", gate)
        self.shown("gate", gate, x_BCN.shape[2:])
        return resized(gate, x_BCN.shape[2:], smooth=False)


def _window_mean(x_BCN: Tensor, e: int) -> Tensor:
    """Mean over windows of 2 e - 1 around every e-th position, of what lies inside; filled up by
    hand, because the pooling of volumes refuses maps smaller than its window."""
    pool = F.avg_pool2d if x_BCN.ndim == 4 else F.avg_pool3d
    around = [e - 1] * 2 * (x_BCN.ndim - 2)
    inside = F.pad(torch.ones_like(x_BCN[:1, :1]), around)
    return pool(F.pad(x_BCN, around), 2 * e - 1, e) / pool(inside, 2 * e - 1, e)
