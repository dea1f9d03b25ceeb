"""Global second-order pooling (Gao et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Gating, Norm, conv, over, pooled, resized
from napari_attnseg.errors import InputError

MODES = ("channel", "position")


def covariance(z_BDN: Tensor) -> Tensor:
    """Covariance of D rows over N observations, divided by N: (B, D, D)."""
    centred = z_BDN - z_BDN.mean(-1, keepdim=True)
    return centred @ centred.mT / z_BDN.shape[-1]


@register_attention(
    "gsop",
    id="A04",
    title="Global second-order pooling",
    paper="Gao, Xie, Wang & Li: Global Second-order Pooling Convolutional Networks (CVPR 2019)",
    kinds=("channel", "spatial", "matrix"),
    ndim=(2, 3),
)
class SecondOrderPooling(Gating):
    """One weight per channel, from how all channels vary together rather than from their means.

    Formula:
        Z = relu(norm(W x))
        S = Z (I - 1 1' / N) Z' / N
        s = sigmoid(V rowconv(norm(S)))
        y = x * s
    Symbols:
        x, y: features (B, C, N)
        Z: d reduced channels over N positions
        S: covariance of the channels (B, d, d)
        rowconv: each of the d rows of S, d long, becomes 4 numbers by weights of its own
        V: 4 d to C; s: one number per channel (B, C)
    Cost:
        N C d + N d^2 + 4 d^2 + 4 d C multiply-adds; the covariance has d^2 numbers
    Notes:
        mode "position" exchanges roles: the map is brought to a small grid, S is the covariance of
        its positions over the channels, s one number per position, brought back to the full grid.
        A constant added to Z (a channel brighter everywhere) does not change S in channel mode.
        The convolution before a normalisation has no bias (the published code has one that does
        nothing in training).
    Args:
        inner: d, reduced channels (None: 128, or C where that is less)
        mode: "channel" or "position"
        grid: side of the small grid in position mode (None: 8, in volumes 4)
    """

    maps: ClassVar[tuple[str, ...]] = ("channels", "positions", "covariance")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}

    def __init__(
        self,
        channels: int,
        inner: int | None = None,
        mode: str = "channel",
        grid: int | None = None,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.mode = str(self.checked("mode", mode))
        d = min(128, channels) if inner is None else inner
        side = (8 if ndim == 2 else 4) if grid is None else grid
        if d < 1 or side < 1:
            raise InputError(f"got inner={inner}, grid={grid}, expected at least 1")
        self.grid = (side,) * ndim
        rows = d if mode == "channel" else side**ndim
        out = channels if mode == "channel" else rows
        self.reduce = nn.Sequential(conv(ndim, channels, d, bias=False), Norm(d), nn.ReLU())
        self.norm = Norm(rows)
        self.rows = nn.Conv1d(rows, 4 * rows, rows, groups=rows)
        self.expand = nn.Linear(4 * rows, out)

    def weights(self, x_BCN: Tensor) -> Tensor:
        z = self.reduce(x_BCN)
        if self.mode == "position":
            z = pooled(z, self.grid)
        z_BRO = z.flatten(2) if self.mode == "channel" else z.flatten(2).mT
        cov = covariance(z_BRO)
        if self.probe is not None:
            self.probe.note("covariance", cov, "matrix")
        s = torch.sigmoid(self.expand(self.rows(self.norm(cov)).flatten(1)))
        if self.mode == "channel":
            return self.shown("channels", over(s, x_BCN))
        small = self.shown("positions", s.unflatten(1, (1, *self.grid)), x_BCN.shape[2:])
        return resized(small, x_BCN.shape[2:])
