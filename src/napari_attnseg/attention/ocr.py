"""Object-contextual representations (Yuan, Chen & Wang, ECCV 2020), equations 2 to 6."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_attnseg.attention.base import AttentionModule, Role, Structure, register_attention
from napari_attnseg.attention.layers import resized
from napari_attnseg.attention.pairwise import check_ndim, inner_of, line, normed, note_row
from napari_attnseg.errors import InputError


@register_attention(
    "ocr",
    id="A33",
    title="Object-contextual representation",
    paper="Yuan et al.: Object-Contextual Representations for Semantic Segmentation (ECCV 2020)",
    kinds=("region", "row"),
    ndim=(2, 3),
)
class ObjectContext(AttentionModule):
    """A first guess of the classes gathers one vector per class; every pixel asks these vectors.

    Formula:
        m_ki = softmax_i(l_ki), f_k = sum_i m_ki x_i
        w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(c))
        y_i = g([x_i, rho(sum_k w_ik delta(f_k))])

    Symbols:
        x, y: features (B, C, N); l: class scores (B, K, N), supervised by a loss of their own
        m: share of position i in the region of class k; over positions it sums to 1
        f: region vectors (B, K, C); w: how much position i asks region k, over k it sums to 1
        phi, psi, delta: 1x1 convolution, batch normalisation, ReLU, C to c = C / 2
        rho: the same, c to C; g: the same, 2 C to C

    Cost:
        2 N K C + 2 N K c + N C (c + c + 2 C) multiply-adds, 2 K N weights; 16 576 parameters at
        C = 64, norm=False, without the network's own layer that makes l.

    Notes:
        The softmax of m runs over positions, as in the authors' branch; a stored copy elsewhere
        runs it over classes. The network supplies l and adds their loss (weight 0.4 in the
        paper). norm=False makes all five plain 1x1 convolutions; then, given the weights, the
        module is a linear operator over positions of rank at most K.

    Args:
        inner_channels: c (None: C / 2)
        norm: batch normalisation and ReLU after each projection
    """

    role: ClassVar[Role] = "class-aware"
    maps: ClassVar[tuple[str, ...]] = ("regions", "relation", "row")
    structure: ClassVar[Structure] = "lowrank"
    stochastic: ClassVar[bool] = True
    tiny: ClassVar[Mapping[str, Any]] = {"norm": False}

    def __init__(
        self,
        channels: int,
        classes: int,
        inner_channels: int | None = None,
        norm: bool = True,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"got classes={classes}, expected at least 1")
        self.ndim, self.classes, self.norm = check_ndim(ndim), classes, norm
        inner = inner_of(channels, inner_channels, 2)
        make = normed if norm else line
        self.phi, self.delta = (make(channels, inner, ndim) for _ in range(2))
        # a key's bias would do nothing under the softmax
        self.psi = normed(channels, inner, ndim) if norm else line(channels, inner, ndim, False)
        self.rho = make(inner, channels, ndim)
        self.join = make(2 * channels, channels, ndim)

    @property
    def rank(self) -> int:
        return self.classes

    def forward(self, x: Tensor, class_logits: Tensor) -> Tensor:
        """(B, C, *grid) to the same; ``class_logits`` (B, K, *any grid). Raises ``InputError``
        for another number of classes."""
        shares, regions, relation = self.weights(x, class_logits)
        if self.probe is not None:
            self._note(shares, relation, tuple(x.shape[2:]))
        value = self.delta(regions).flatten(2)
        return self._finished((value @ relation.mT).unflatten(2, x.shape[2:]), x)

    def weights(self, x: Tensor, class_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m (B, K, N), f (B, C, K, 1) as a narrow map, w (B, N, K)."""
        if class_logits.shape[1] != self.classes:
            raise InputError(f"got {class_logits.shape[1]} class scores, expected {self.classes}")
        shares = torch.softmax(resized(class_logits, x.shape[2:]).flatten(2), -1)
        regions = (x.flatten(2) @ shares.mT).view(*x.shape[:2], -1, *(1,) * (self.ndim - 1))
        query, key = self.phi(x).flatten(2), self.psi(regions).flatten(2)
        relation = torch.softmax(query.mT @ key * query.shape[1] ** -0.5, -1)
        return shares, regions, relation

    def _finished(self, mixed: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.join(torch.cat([x, self.rho(mixed)], 1))
        return y

    def _note(self, shares: Tensor, relation: Tensor, grid: tuple[int, ...]) -> None:
        assert self.probe is not None
        self.probe.note("regions", shares.unflatten(2, grid), "region")
        self.probe.note("relation", relation.mT.unflatten(2, grid), "region")
        for i, at in enumerate(self.probe.cells(grid)):
            flat = sum(a * prod(grid[axis + 1 :]) for axis, a in enumerate(at))
            row = relation[:, flat : flat + 1] @ shares
            note_row(self.probe, row.unflatten(2, grid), i)

    def operator(self, *inputs: Tensor) -> Tensor:
        """A = w m; raises ``InputError`` with ``norm``, where delta is not linear."""
        if self.norm:
            raise InputError("got norm=True, expected norm=False for an operator over positions")
        shares, _, relation = self.weights(inputs[0], inputs[1])
        return (relation @ shares).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.delta(inputs[0])
        return value.flatten(2).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return self._finished(mixed_BMCN[:, 0].unflatten(2, x.shape[2:]), x)

    def extra_repr(self) -> str:
        return f"classes={self.classes}, norm={self.norm}"
