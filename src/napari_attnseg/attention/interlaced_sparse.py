"""Interlaced sparse self-attention (Huang et al., arXiv 1907.12273)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.neighbourhood import Blocks, Lattice
from napari_attnseg.attention.pairwise import Pairwise, check_ndim, inner_of, line, normed
from napari_attnseg.errors import InputError


@register_attention(
    "interlaced_sparse",
    id="A22",
    title="Interlaced sparse attention",
    paper="Huang et al.: Interlaced Sparse Self-Attention for Semantic Segmentation (2019)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class InterlacedSparseAttention(AttentionModule):
    """Far positions first, then near ones: two sparse steps that reach the whole image.

    Formula:
        step(x; Omega)_i = r(W_o sum_{j in Omega(i)} softmax_j(theta_i . phi_j / sqrt(c)) (W_g x)_j)
        z = step(x; lattice), then z = step(z; block)
        y = r(W [z, x])  or, merge="add", y = z + x

    Symbols:
        x, y: features (B, C, N)
        lattice(i): positions that stand at the same place of every P x P block
        block(i): the P x P block of i
        theta, phi: two 1x1 convolutions with batch normalisation and ReLU each, C to c = C / 2
        W_g: 1x1 convolution C to c; W_o: c to C
        r: batch normalisation and ReLU; W: 1x1 convolution 2 C to C

    Cost:
        4 N C^2 + 1.5 N C (N / P^2 + P^2) multiply-adds, N (N / P^2 + P^2) weights: least for
        P^2 = sqrt(N).

    Notes:
        Where P does not divide the size, blocks reach over the border; what lies there is masked.
        Public code fills it with zeros that take part in the softmax.

    Args:
        block: P, positions along every side of a block
        inner_channels: c (None: C / 2)
        merge: concat = 1x1 convolution of both, add = sum with the input
    """

    maps: ClassVar[tuple[str, ...]] = ("received far", "received near", "row far", "row near")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"merge": ("concat", "add")}
    structure: ClassVar[Structure] = "sparse"
    tiny: ClassVar[Mapping[str, Any]] = {"block": 2}
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        block: int = 8,
        inner_channels: int | None = None,
        merge: str = "concat",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if block < 1:
            raise InputError(f"got block={block}, expected at least 1")
        size = (block,) * check_ndim(ndim)
        inner = inner_of(channels, inner_channels, 2)
        self.merge = self.checked("merge", merge)
        self.far = _step(channels, inner, Lattice(size), ndim)
        self.near = _step(channels, inner, Blocks(size), ndim)
        self.join = normed(2 * channels, channels, ndim) if merge == "concat" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        z = self.near(self.far(x, probe=self.probe, name="far"), probe=self.probe, name="near")
        return self._joined(z, x)

    def _joined(self, z: Tensor, x: Tensor) -> Tensor:
        if self.merge == "add":
            return z + x
        y: Tensor = self.join(torch.cat([z, x], 1))
        return y

    # The steps do not multiply out, because a ReLU stands between them: the operator is the near
    # step's, given what the far one answers.

    def operator(self, *inputs: Tensor) -> Tensor:
        return self.near.operator(self.far(inputs[0]))

    def values(self, *inputs: Tensor) -> Tensor:
        return self.near.values(self.far(inputs[0]))

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return self._joined(self.near.collect(mixed_BMCN, tuple(x.shape[2:])), x)

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}"


def _step(channels: int, inner: int, hood: Blocks | Lattice, ndim: int) -> Pairwise:
    return Pairwise(
        normed(channels, inner, ndim, times=2),
        normed(channels, inner, ndim, times=2),
        line(channels, inner, ndim),
        normed(inner, channels, ndim),
        hood=hood,
    )
