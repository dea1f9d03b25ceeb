"""Asymmetric non-local blocks (Zhu et al., ICCV 2019): APNB and AFNB."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.fused import attend
from napari_attnseg.attention.layers import pooled
from napari_attnseg.attention.neighbourhood import Size
from napari_attnseg.attention.pairwise import check_ndim, inner_of, line, normed, note_row
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError


@register_attention(
    "ann",
    id="A19",
    title="Asymmetric non-local block",
    paper="Zhu et al.: Asymmetric Non-local Neural Networks for Semantic Segmentation (ICCV 2019)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class AsymmetricNonLocal(AttentionModule):
    """Every position asks a pyramid of averages instead of all positions.

    Formula:
        q = theta(x), k = P phi(s), v = P g(s)
        z_i = W_z sum_{a = 1..S} softmax_a(q_i . k_a / sqrt(c)) v_a
        y = r(W [z, x])  or, merge="add", y = x + z

    Symbols:
        x, y: features (B, C, N); s: x itself (apnb), a shallower map (afnb)
        P: averages over the cells of a 1x1, 3x3, 6x6 and 8x8 grid, one below the other (S, N)
        S: pooled points, 1 + 9 + 36 + 64 = 110
        theta, phi: 1x1 convolution, batch normalisation, ReLU, C to c = C / 2; one for both in
        apnb, where s is x
        g: 1x1 convolution C to c; W_z: c to C, zero at the start
        r(W ..): 1x1 convolution 2 C to C, batch normalisation, ReLU

    Cost:
        3 N C c + 4 N S c multiply-adds, S N weights; 6 272 parameters at C = 64, merge="add".

    Notes:
        As an operator over positions A = softmax(Q (P K)^T) P: rows sum to 1, rank at most S. The
        row of a queried position is a row of this A: every pooled point spread over its cell.
        variant="afnb" takes the shallower map as a second input of the forward, of any size;
        without one it asks x with projections of their own. In a network it stands best at up,
        where the doubled deeper map asks the skip, as in the paper; at a skip the skip asks the
        decoder's map, and anywhere else there is no second map.

    Args:
        variant: apnb = one map, shared query and key; afnb = keys and values from a second map
        sizes: grids of the pyramid, as digits with hyphens (empty: no pooling, all positions)
        inner_channels: c (None: C / 2)
        merge: concat = 1x1 convolution of both, add = sum with the input
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "variant": ("apnb", "afnb"),
        "merge": ("concat", "add"),
    }
    structure: ClassVar[Structure] = "lowrank"
    stochastic: ClassVar[bool] = True
    tiny: ClassVar[Mapping[str, Any]] = {"sizes": "1-2"}

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        variant: str = "apnb",
        sizes: str = "1-3-6-8",
        inner_channels: int | None = None,
        merge: str = "concat",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.ndim = check_ndim(ndim)
        self.variant, self.merge = self.checked("variant", variant), self.checked("merge", merge)
        self.sizes = _sizes(sizes)
        source = channels if variant == "apnb" else context_channels or channels
        inner = inner_of(channels, inner_channels, 2)
        self.query = normed(channels, inner, ndim)
        self.key = None if variant == "apnb" else normed(source, inner, ndim)
        self.value = line(source, inner, ndim, bias=False)  # its bias is that of out
        self.out = line(inner, channels, ndim)
        self.join = normed(2 * channels, channels, ndim) if merge == "concat" else nn.Identity()
        for p in self.out.parameters():
            nn.init.zeros_(p)

    @property
    def takes_second(self) -> bool:
        return self.variant == "afnb"

    @property
    def rank(self) -> int:
        return int(sum(n**self.ndim for n in self.sizes))

    def forward(self, x: Tensor, shallow: Tensor | None = None) -> Tensor:
        """(B, C, *grid) to the same; ``shallow`` (B, its channels, *any grid) for afnb."""
        source = x if shallow is None else shallow
        q, k, v = self._parts(x, source)
        if self.probe is not None:
            self._note(q, k, tuple(x.shape[2:]), tuple(source.shape[2:]))
        mixed = attend(q[:, None], k[:, None], v[:, None], q.shape[-1] ** -0.5)
        return self._finished(mixed[:, 0].mT.unflatten(2, x.shape[2:]), x)

    def _finished(self, mixed: Tensor, x: Tensor) -> Tensor:
        z: Tensor = self.out(mixed)
        if self.merge == "add":
            return x + z
        y: Tensor = self.join(torch.cat([z, x], 1))
        return y

    def _parts(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, N, c), k and v (B, S, c)."""
        q = self.query(x)
        asked = self.key(source) if self.key is not None else q
        return q.flatten(2).mT, self._pooled(asked), self._pooled(self.value(source))

    def _pooled(self, x: Tensor) -> Tensor:
        """P x: (B, S, c)."""
        if not self.sizes:
            return x.flatten(2).mT
        return torch.cat([pooled(x, (n,) * self.ndim).flatten(2) for n in self.sizes], 2).mT

    def pyramid(self, grid: Size, like: Tensor) -> Tensor:
        """P (S, N) on a grid: every row is the mean over a cell."""
        n = prod(grid)
        if not self.sizes:
            return torch.eye(n, dtype=like.dtype, device=like.device)
        parts = []
        for size in self.sizes:
            factors = [_cells(size, m, like) for m in grid]
            out = factors[0]
            for f in factors[1:]:
                out = torch.einsum("ai,bj->abij", out, f).flatten(2).flatten(0, 1)
            parts.append(out)
        return torch.cat(parts)

    def _weights(self, q_BQc: Tensor, k_BSc: Tensor) -> Tensor:
        return torch.softmax(q_BQc @ k_BSc.mT * q_BQc.shape[-1] ** -0.5, -1)

    def _note(self, q: Tensor, k: Tensor, grid: Size, keys: Size) -> None:
        """Rows of A alone; the mean of all rows needs the (N, S) weights but no N x N."""
        assert self.probe is not None
        pyramid, where = self.pyramid(keys, q), Geometry.over(grid, keys)
        mean = self._weights(q, k).mean(1) @ pyramid
        self.probe.note("received", mean.unflatten(1, keys), "spatial", where)
        for i, at in enumerate(self.probe.cells(grid)):
            flat = sum(a * prod(grid[axis + 1 :]) for axis, a in enumerate(at))
            row = self._weights(q[:, flat : flat + 1], k) @ pyramid
            note_row(self.probe, row.unflatten(2, keys), i, where)

    def operator(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        q, k, _ = self._parts(x, inputs[-1])
        return (self._weights(q, k) @ self.pyramid(tuple(inputs[-1].shape[2:]), q)).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.value(inputs[-1])
        return value.flatten(2).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return self._finished(mixed_BMCN[:, 0].unflatten(2, x.shape[2:]), x)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}, sizes={self.sizes}, merge={self.merge!r}"


def _sizes(words: str) -> tuple[int, ...]:
    parts = [w for w in words.split("-") if w.strip()]
    if not all(w.strip().isdecimal() and int(w) > 0 for w in parts):
        raise InputError(f"got sizes={words!r}, expected numbers such as 1-3-6-8")
    return tuple(int(w) for w in parts)


def _cells(size: int, length: int, like: Tensor) -> Tensor:
    """Averages of an adaptive pool along one axis: (size, length)."""
    out = like.new_zeros(size, length)
    for a in range(size):
        start, stop = a * length // size, -((a + 1) * length // -size)
        out[a, start:stop] = 1 / (stop - start)
    return out
