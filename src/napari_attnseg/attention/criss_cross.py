"""Criss-cross attention (Huang et al., CCNet, ICCV 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.neighbourhood import Cross, places
from napari_attnseg.attention.pairwise import (
    KEY_BIAS,
    Pairwise,
    check_ndim,
    dealt,
    inner_of,
    line,
    note_row,
)
from napari_attnseg.errors import InputError


@register_attention(
    "criss_cross",
    id="A21",
    title="Criss-cross attention",
    paper="Huang et al.: CCNet: Criss-Cross Attention for Semantic Segmentation (ICCV 2019)",
    kinds=("spatial", "cross", "row"),
    ndim=(2, 3),
)
class CrissCrossAttention(AttentionModule):
    """Every position gathers from its row and column; done twice, from the whole image.

    Formula:
        q = W_q x, k = W_k x, v = W_v x
        x_i <- x_i + gamma * sum_{j in row(i) or column(i)} softmax_j(q_i . k_j) v_j
        repeated R times with the same W_q, W_k, W_v and gamma

    Symbols:
        x: features (B, C, H, W)
        q, k: (B, c, H, W), c = C / 8; W_q, W_k: 1x1 convolutions C to c
        v: (B, C, H, W); W_v: 1x1 convolution C to C
        softmax_j: over the H + W - 1 positions together; i itself counts once
        gamma: one learned number, 0 at the start, where the module is the identity

    Cost:
        R (1.25 N C^2 + 1.1 N (H + W) C) multiply-adds, N (H + W) weights, 5 201 parameters at
        C = 64 whatever R.

    Notes:
        The mask that counts i once is made on the device of x (published code fixes it to CUDA).
        The row of a queried position shows both passes: weights of the last one times the rows
        of the one before. In volumes the three lines through a position.

    Args:
        recurrence: R, how often the same attention is applied
        inner_channels: c of queries and keys (None: C / 8)
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "cross", "row")
    inert: ClassVar[dict[str, str]] = {"pairs.key.bias": KEY_BIAS}
    structure: ClassVar[Structure] = "sparse"
    stochastic: ClassVar[bool] = True
    identity_at_start: ClassVar[bool] = True
    weighed_by: ClassVar[str] = "gamma"

    def __init__(
        self,
        channels: int,
        recurrence: int = 2,
        inner_channels: int | None = None,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_ndim(ndim)
        if recurrence < 1:
            raise InputError(f"got recurrence={recurrence}, expected at least 1")
        inner = inner_of(channels, inner_channels, 8)
        self.recurrence = recurrence
        self.pairs = Pairwise(
            line(channels, inner, ndim),
            line(channels, inner, ndim),
            line(channels, channels, ndim),
            scale=1.0,
            hood=Cross(),
        )
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        if self.probe is not None:
            self._note(self.passes(x))
        for _ in range(self.recurrence):
            x = x + self.gamma * self.pairs(x)
        return x

    def passes(self, x: Tensor) -> list[Tensor]:
        """What each pass gets."""
        inputs = [x]
        for _ in range(1, self.recurrence):
            inputs.append(inputs[-1] + self.gamma * self.pairs(inputs[-1]))
        return inputs

    def _note(self, inputs: list[Tensor]) -> None:
        assert self.probe is not None
        q, k, _ = self.pairs.parts(inputs[-1])
        self.probe.note("received", Cross().received(q, k, 1.0))
        for i, at in enumerate(self.probe.cells(inputs[0].shape[2:])):
            cross = self._rows(inputs[-1], [at])
            self.probe.note("cross", cross[:, 0], "cross", query=i)
            note_row(self.probe, self.row(inputs, at).unsqueeze(1), i)

    def row(self, inputs: list[Tensor], at: tuple[int, ...]) -> Tensor:
        """What position ``at`` gathers from where, all passes together: (B, *grid), sums to 1.

        Seen through the last pass's row and column, whose rows of the pass before are the only
        ones that are computed; of three passes and more those of the last two.
        """
        last = self._rows(inputs[-1], [at])[:, 0]
        if len(inputs) == 1:
            return last
        grid = tuple(last.shape[1:])
        table = list(places(grid))
        keys = Cross().keys(at, grid)
        rows = self._rows(inputs[-2], [table[int(i)] for i in keys])
        return torch.einsum("bn,bn...->b...", last.flatten(1)[:, keys], rows)

    def _rows(self, x: Tensor, queries: list[tuple[int, ...]]) -> Tensor:
        """(B, queries, *grid)."""
        q, k = dealt(self.pairs.query(x), 1), dealt(self._key(x), 1)
        return torch.cat([Cross().row(q, k, at, 1.0) for at in queries], 1)

    def _key(self, x: Tensor) -> Tensor:
        assert self.pairs.key is not None
        key: Tensor = self.pairs.key(x)
        return key

    # Two passes expand into x + gamma A1 v + gamma A2 v + gamma^2 A2 A1 W_v v with v = W_v x + b:
    # one head of the operator for every non-empty choice of passes, in order.

    def operator(self, *inputs: Tensor) -> Tensor:
        a = [self.pairs.operator(x)[:, 0] for x in self.passes(inputs[0])]
        return torch.stack([_product(a, chosen) for chosen in self._choices()], 1)

    def values(self, *inputs: Tensor) -> Tensor:
        value = self.pairs.value(inputs[0])
        powers = [self.gamma * value]
        weight = self.pairs.value.get_parameter("weight").flatten(1)
        for _ in range(1, self.recurrence):
            turned = torch.einsum("oc,bc...->bo...", weight, powers[-1])
            powers.append(self.gamma * turned)
        return torch.stack([powers[len(c) - 1].flatten(2) for c in self._choices()], 1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        return inputs[0] + mixed_BMCN.sum(1).view_as(inputs[0])

    def _choices(self) -> list[list[int]]:
        every = range(1, 2**self.recurrence)
        return [[i for i in range(self.recurrence) if bits >> i & 1] for bits in every]

    def extra_repr(self) -> str:
        return f"recurrence={self.recurrence}"


def _product(operators: list[Tensor], chosen: list[int]) -> Tensor:
    """The chosen passes one after the other: the later ones stand on the left."""
    out = operators[chosen[0]]
    for i in chosen[1:]:
        out = operators[i] @ out
    return out
