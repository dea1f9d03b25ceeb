"""Shifted-window attention (Liu et al., Swin Transformer, ICCV 2021), equations 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import Structure, register_attention
from napari_attnseg.attention.neighbourhood import Blocks, Size
from napari_attnseg.attention.pairwise import Pairwise, check_ndim, heads_of, line, show
from napari_attnseg.attention.recording import Geometry, Probe
from napari_attnseg.attention.vit import Transformer, TransformerBlock, check_depth, inert_keys
from napari_attnseg.errors import InputError


class WindowPairwise(Pairwise):
    """Multi-head attention inside windows, with a learned number for every step between two
    positions: ``softmax_j(q_i . k_j / sqrt(d) + b_{i-j}) v_j``."""

    def __init__(self, channels: int, window: int, heads: int, shift: int, ndim: int) -> None:
        super().__init__(*(line(channels, channels, ndim) for _ in range(4)), heads=heads)
        self.window, self.shift, self.ndim = window, shift, ndim
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** ndim, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def blocks(self, grid: Size) -> Blocks:
        """The windows on a grid; an axis that fits into one window is not shifted."""
        shift = tuple(self.shift if n > self.window else 0 for n in grid)
        return Blocks((self.window,) * self.ndim, shift)

    def relative(self, steps: Tensor) -> Tensor:
        """b (M, ...) of steps (..., axes) from query to key; entries lie by the step back, as in
        public weights."""
        width = 2 * self.window - 1
        flat = torch.zeros_like(steps[..., 0])
        for axis in range(self.ndim):
            flat = flat * width + self.window - 1 - steps[..., axis]
        return self.bias[flat.to(self.bias.device)].movedim(-1, 0)

    def table(self) -> Tensor:
        """b between all slots of a window: (M, n, n)."""
        return self.relative(Blocks((self.window,) * self.ndim).steps())

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        blocks = self.blocks(tuple(q.shape[3:]))
        return blocks.mix(q, k, v, self.factor(q), self.table()).flatten(1, 2)

    def forward(
        self, x: Tensor, context: Tensor | None = None, probe: Probe | None = None, name: str = ""
    ) -> Tensor:
        q, k, v = self.parts(x, context)
        if probe is not None:
            blocks = self.blocks(tuple(q.shape[3:]))
            where = Geometry(self.ndim, window=blocks.size, shift=blocks.shift)
            terms = {"bias": self.table()}
            show(probe, blocks, q, k, self.factor(q), extra=self._extra, geometry=where, **terms)
        y: Tensor = self.out(self.mix(q, k, v))
        return y

    def _extra(self, q: Tensor, k: Tensor, steps: Tensor) -> Tensor:
        return self.relative(steps)

    def operator(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, _ = self.parts(x, context)
        blocks = self.blocks(tuple(q.shape[3:]))
        return blocks.materialise(q, k, self.factor(q), self._extra)


@register_attention(
    "swin",
    id="A26",
    title="Shifted-window attention (Swin block)",
    paper="Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows "
    "(ICCV 2021)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class SwinAttention(Transformer):
    """Attention inside windows, and then inside windows shifted by half.

    Formula:
        t = t + W_o concat_m sum_{j in window(i)} softmax_j(q_im . k_jm / sqrt(d) + b_{i-j,m}) v_jm
        t = t + W_2 gelu(W_1 LN(t)), the first line of LN(t) too
        repeated depth times; every second time the windows are shifted by floor(w / 2)

    Symbols:
        t: positions as tokens (B, N, C), at first x
        q, k, v: linear maps of a token, C channels in M heads of d = C / M; W_o: C to C
        b: relative position (M numbers for each of (2 w - 1)^2 steps)
        window(i): the w x w positions around i, cut by the window's grid

    Cost:
        4 N C^2 + 2 N w^2 C (+ 8 N C^2) multiply-adds a block, M N w^2 weights; 17 316 parameters
        of the attention at C = 64, w = 7 and M = 4.

    Notes:
        Shifted windows are dealt out without rolling the map: border windows are smaller, which
        is what rolling and masking the wrapped parts amounts to. Where w does not divide the size
        the window reaches over the border and what lies there is masked; public code lets padded
        zeros (with the key's bias) take part.

    Args:
        window: w, positions along every side
        heads: M (None: as many up to 8 as divide the channels)
        depth: blocks; 2 are one unshifted and one shifted
        mlp_ratio: width of the perceptron in C; 0 leaves it out
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    structure: ClassVar[Structure] = "sparse"
    tiny: ClassVar[Mapping[str, Any]] = {"window": 2}
    inert: ClassVar[dict[str, str]] = inert_keys(2)

    def __init__(
        self,
        channels: int,
        window: int = 7,
        heads: int | None = None,
        depth: int = 2,
        mlp_ratio: float = 4.0,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_depth(depth, mlp_ratio)
        check_ndim(ndim)
        if window < 1:
            raise InputError(f"got window={window}, expected at least 1")
        m = heads_of(channels, heads)
        shifts = [window // 2 if i % 2 else 0 for i in range(depth)]
        pairs = (WindowPairwise(channels, window, m, s, ndim) for s in shifts)
        self.blocks = nn.ModuleList(TransformerBlock(channels, p, mlp_ratio, ndim) for p in pairs)
