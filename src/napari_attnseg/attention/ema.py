"""Expectation-maximization attention (Li et al., EMANet, ICCV 2019), equations 9 to 16."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.layers import Norm
from napari_attnseg.attention.pairwise import check_ndim, line, note_row
from napari_attnseg.errors import InputError

EPS = 1e-6
"""Keeps the sums of responsibilities away from 0."""


@register_attention(
    "ema",
    id="A24",
    title="Expectation-maximization attention",
    paper="Li et al.: Expectation-Maximization Attention Networks for Semantic Segmentation "
    "(ICCV 2019)",
    kinds=("region", "row"),
    ndim=(2, 3),
)
class EMAttention(AttentionModule):
    """The image is explained by a few bases, found by soft clustering, and rebuilt from them.

    Formula:
        X = W_1 x
        T times: Z = softmax_k(X^T M), M = l2norm(X Z / sum_n Z)
        y = relu(x + BN(W_2 relu(M Z^T)))

    Symbols:
        x, y: features (B, C, N); X: (C, N) of one item
        M: bases (C, K), each of length 1; they begin with the running bases of the module
        Z: responsibilities (N, K), rows sum to 1
        W_1, W_2: 1x1 convolutions C to C

    Cost:
        2 N C^2 + (2 T + 1) N K C multiply-adds, K N responsibilities; 8 384 parameters at C = 64.

    Notes:
        While training, the running bases follow the mean of the items' last bases
        (0.9 old + 0.1 new); in evaluation they stand. The published code runs both steps without
        gradients, so that W_1 never learns; here gradients flow through all steps.
        frozen_em=True is the published form, with W_1 a fixed random projection.

    Args:
        bases: K
        iterations: T
        momentum: how much of the running bases is kept at each training step
        frozen_em: no gradients through the clustering, W_1 fixed, as published
    """

    maps: ClassVar[tuple[str, ...]] = ("regions", "row")
    structure: ClassVar[Structure] = "lowrank"
    tiny: ClassVar[Mapping[str, Any]] = {"bases": 5}
    running: Tensor

    def __init__(
        self,
        channels: int,
        bases: int = 64,
        iterations: int = 3,
        momentum: float = 0.9,
        frozen_em: bool = False,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if bases < 1 or iterations < 1:
            raise InputError(f"got bases={bases}, iterations={iterations}, expected at least 1")
        if not 0 <= momentum <= 1:
            raise InputError(f"got momentum={momentum}, expected 0 to 1")
        self.bases, self.iterations, self.momentum = bases, iterations, momentum
        self.frozen_em = frozen_em
        self.into = line(channels, channels, check_ndim(ndim))
        self.out = nn.Sequential(line(channels, channels, ndim, bias=False), Norm(channels))
        self.into.requires_grad_(not frozen_em)
        start = torch.randn(channels, bases) * (2 / bases) ** 0.5
        self.register_buffer("running", F.normalize(start, dim=0))

    @property
    def rank(self) -> int:
        return self.bases

    def cluster(self, x_BCN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bases M (B, C, K), responsibilities Z (B, N, K) and the shares (B, N, K) with which
        positions make the bases: M = X shares."""
        bases = self.running.expand(x_BCN.shape[0], -1, -1).to(x_BCN.dtype, copy=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_em):
            for _ in range(self.iterations):
                z = torch.softmax(x_BCN.mT @ bases, -1)
                shares = z / (z.sum(1, keepdim=True) + EPS)
                sums = x_BCN @ shares
                length = torch.linalg.vector_norm(sums, dim=1, keepdim=True).clamp(min=1e-12)
                bases = sums / length
        return bases, z, shares / length

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        flat = self.into(x).flatten(2)
        bases, z, shares = self.cluster(flat)
        if self.training:
            self._follow(bases)
        if self.probe is not None:
            self._note(z, shares, tuple(x.shape[2:]))
        return self._rebuilt((bases @ z.mT).view_as(x), x)

    def _rebuilt(self, mixed: Tensor, x: Tensor) -> Tensor:
        return torch.relu(x + self.out(torch.relu(mixed)))

    @torch.no_grad()
    def _follow(self, bases_BCK: Tensor) -> None:
        new = bases_BCK.mean(0).to(self.running.dtype)
        self.running.mul_(self.momentum).add_(new, alpha=1 - self.momentum)

    def _note(self, z: Tensor, shares: Tensor, grid: tuple[int, ...]) -> None:
        assert self.probe is not None
        self.probe.note("regions", z.mT.unflatten(2, grid), "region")
        for i, at in enumerate(self.probe.cells(grid)):
            flat = sum(a * prod(grid[axis + 1 :]) for axis, a in enumerate(at))
            row = z[:, flat : flat + 1] @ shares.mT
            note_row(self.probe, row.unflatten(2, grid), i)

    def operator(self, *inputs: Tensor) -> Tensor:
        _, z, shares = self.cluster(self.into(inputs[0]).flatten(2))
        return (z @ shares.mT).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.into(inputs[0])
        return value.flatten(2).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        return self._rebuilt(mixed_BMCN[:, 0].view_as(inputs[0]), inputs[0])

    def extra_repr(self) -> str:
        return f"bases={self.bases}, iterations={self.iterations}, frozen_em={self.frozen_em}"
