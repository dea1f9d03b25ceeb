"""Point-wise spatial attention (Zhao et al., PSANet, ECCV 2018): collect and distribute."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.layers import pooled, resized
from napari_attnseg.attention.neighbourhood import Size, coordinates
from napari_attnseg.attention.pairwise import line, normed, note_row
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError


@register_attention(
    "psa",
    id="A06",
    title="Point-wise spatial attention",
    paper="Zhao et al.: PSANet: Point-wise Spatial Attention Network for Scene Parsing (ECCV 2018)",
    kinds=("spatial", "row"),
)
class PointSpatialAttention(AttentionModule):
    """Each position predicts where it looks (collect) and where it sends (distribute).

    Formula:
        collect:    u'_i = sum_j softmax_j(a^c_i[j - i]) u_j
        distribute: v'_i = sum_j softmax_j(a^d_j[i - j]) v_j
        y = x + up(r(W [u', v']))

    Symbols:
        x, y: features (B, C, H, W)
        u, v: 1x1 convolution, batch normalisation, ReLU of x, C to c = C / 4, on a grid of at most
        S x S
        a^c, a^d: scores for every step to another position, (2 S - 1)^2 per position, from u and v
        by two 1x1 convolutions (the first with batch normalisation and ReLU)
        r(W ..): 1x1 convolution 2 c to C, batch normalisation, ReLU; up: bilinear

    Cost:
        2 N c (2 S - 1)^2 + 4 N^2 c multiply-adds and 2 N^2 weights with N <= S^2, whatever the
        size of x; 35 616 parameters at C = 64 and S = 16, 12 064 at S = 8.

    Notes:
        Steps are learned, so a network is bound to a largest map. The rule here: the attention
        runs on a grid that is the map's divided by shrink (as published, 2), and no more than
        max_size along each axis; a larger map is averaged down to it and the answer resized, so
        any size runs. The paper puts the answer beside x (2 C channels) in front of its head;
        here it is added, which keeps the shape.

    Args:
        max_size: S, largest side of the grid on which the attention runs
        shrink: by what the map is reduced first
        inner_channels: c (None: C / 4)
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row collect", "row distribute")
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True
    tiny: ClassVar[Mapping[str, Any]] = {"shrink": 1, "max_size": 12}

    def __init__(
        self,
        channels: int,
        max_size: int = 16,
        shrink: int = 2,
        inner_channels: int | None = None,
    ) -> None:
        super().__init__()
        if max_size < 1 or shrink < 1:
            raise InputError(f"got max_size={max_size}, shrink={shrink}, expected at least 1")
        self.max_size, self.shrink = max_size, shrink
        inner = max(1, channels // 4) if inner_channels is None else inner_channels
        if inner < 1:
            raise InputError(f"got inner_channels={inner_channels}, expected at least 1")
        self.reduce = nn.ModuleList(normed(channels, inner) for _ in range(2))
        self.score = nn.ModuleList(
            nn.Sequential(*normed(inner, inner), line(inner, (2 * max_size - 1) ** 2, bias=False))
            for _ in range(2)
        )
        self.out = normed(2 * inner, channels)

    def grid(self, size: Size) -> tuple[int, int]:
        """On which a map of ``size`` is attended."""
        h, w = (min(-(n // -self.shrink), self.max_size) for n in size)
        return h, w

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        weights, values = self._parts(x)
        if self.probe is not None:
            self._note(weights, x.shape[2:])
        return self.collect(weights @ values.mT, x, turned=True)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, 2, N, N), row = receiving position, and values (B, 2, c, N)."""
        grid = self.grid(tuple(x.shape[2:]))
        values = torch.stack([f(x) for f in self.reduce], 1)
        if grid != tuple(x.shape[2:]):
            values = pooled(values.flatten(0, 1), grid).unflatten(0, (-1, 2))
        table = _table(grid, self.max_size).to(x.device)
        asked, sent = (f(values[:, i]).flatten(2).mT for i, f in enumerate(self.score))
        batch = table.expand(x.shape[0], -1, -1)
        scores = torch.stack([asked.gather(2, batch), sent.gather(2, batch).mT], 1)
        return torch.softmax(scores, -1), values.flatten(3)

    def operator(self, *inputs: Tensor) -> Tensor:
        """On the grid of the attention; the map's own where that is not reduced."""
        return self._parts(inputs[0])[0]

    def values(self, *inputs: Tensor) -> Tensor:
        return self._parts(inputs[0])[1]

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor, turned: bool = False) -> Tensor:
        x = inputs[0]
        mixed = mixed_BMCN.mT if turned else mixed_BMCN
        y: Tensor = self.out(mixed.flatten(1, 2).unflatten(2, self.grid(tuple(x.shape[2:]))))
        return x + resized(y, x.shape[2:])

    def _note(self, weights: Tensor, size: torch.Size) -> None:
        assert self.probe is not None
        grid = self.grid(tuple(size))
        where = Geometry.over(size, grid)
        self.probe.note("received", weights.mean((1, 2)).unflatten(1, grid), "spatial", where)
        for i, (y, x) in enumerate(self.probe.cells(grid)):
            rows = weights[:, :, y * grid[1] + x].unflatten(2, grid)
            for head, name in enumerate(("collect", "distribute")):
                note_row(self.probe, rows[:, head : head + 1], i, where, f"row {name}")

    def extra_repr(self) -> str:
        return f"max_size={self.max_size}, shrink={self.shrink}"


@lru_cache(maxsize=16)
def _table(grid: Size, size: int) -> Tensor:
    """Entry (i, j): the number of the step from i to j among (2 size - 1)^2: (N, N)."""
    with torch.inference_mode(False):
        at = coordinates(torch.arange(grid[0] * grid[1], device="cpu"), grid)
        step = at[None] - at[:, None] + size - 1
        return step[..., 0] * (2 * size - 1) + step[..., 1]
