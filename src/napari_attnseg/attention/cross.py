"""Cross-attention at a skip (Vaswani 2017), and U-Net Transformer's gate (Petit et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, Structure, register_attention
from napari_attnseg.attention.layers import resized
from napari_attnseg.attention.pairwise import Pairwise, check_ndim, dealt, heads_of, line, show
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.attention.vit import sinusoid

POOL = {2: nn.functional.adaptive_max_pool2d, 3: nn.functional.adaptive_max_pool3d}


@register_attention(
    "cross",
    id="A27",
    title="Cross-attention",
    paper="Vaswani et al.: Attention Is All You Need (NeurIPS 2017); Petit et al.: U-Net "
    "Transformer (MLMI 2021)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class CrossAttention(AttentionModule):
    """One map asks another: the skip asks the decoder, or the decoder decides about the skip.

    Formula:
        cross: y_i = s_i + W_o concat_m sum_j softmax_j(q_im . k_jm / sqrt(d)) v_jm
               with q of the skip s, k and v of the context g

        mhca:  z = sigmoid(up(W_o concat_m sum_j softmax_j(q_im . k_jm / sqrt(d)) v_jm))
               y = s * z
               with q and k of the context g, v of the skip pooled to the context's grid

    Symbols:
        s, y: skip (B, C, N); g: context (B, C_g, N_g), on any grid
        q, k, v: 1x1 convolutions to C channels without bias, in M heads of d = C / M
        W_o: 1x1 convolution C to C; up: (bi)linear to the skip's grid

    Cost:
        4 N C^2 + 2 N N_g C multiply-adds; M N N_g weights, never held; 16 448 parameters at
        C = C_g = 64.

    Notes:
        mhca adds sines and cosines of row and column to both maps first, as the paper does. Its
        unofficial code has one head, a softmax over the queries and no sigmoid; this follows the
        paper. The skip is pooled by its maximum.

    Args:
        variant: cross, or mhca (the gate of U-Net Transformer)
        heads: M (None: as many up to 8 as divide the channels)
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("received", "row", "gate")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"variant": ("cross", "mhca")}
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        variant: str = "cross",
        heads: int | None = None,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.ndim = check_ndim(ndim)
        self.variant = self.checked("variant", variant)
        deep = context_channels or channels
        asking, giving = (channels, deep) if variant == "cross" else (deep, channels)
        self.pairs = Pairwise(
            line(asking, channels, ndim, bias=False),
            line(deep, channels, ndim, bias=False),
            line(giving, channels, ndim, bias=False),
            line(channels, channels, ndim),
            heads=heads_of(channels, heads),
        )

    def forward(self, skip: Tensor, context: Tensor) -> Tensor:
        """skip (B, C, *grid) and context (B, C_g, *any grid) to the skip's shape."""
        q, k, v = self._parts(skip, context)
        if self.probe is not None:
            where = Geometry.over(skip.shape[2:], k.shape[3:])
            show(self.probe, self.pairs.hood, q, k, self.pairs.factor(q), geometry=where)
        return self._let(self.pairs.out(self.pairs.mix(q, k, v)), skip)

    def _let(self, y: Tensor, skip: Tensor) -> Tensor:
        if self.variant == "cross":
            return skip + y
        gate = torch.sigmoid(resized(y, skip.shape[2:]))
        if self.probe is not None:
            self.probe.note("gate", gate, "spatial")
        return skip * gate

    def _parts(self, skip: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.variant == "cross":
            return self.pairs.parts(skip, context)
        grid = tuple(context.shape[2:])
        deep, shallow = _placed(context), _placed(skip)
        if shallow.shape[2:] != context.shape[2:]:
            shallow = POOL[self.ndim](shallow, grid)
        assert self.pairs.key is not None
        parts = (self.pairs.query(deep), self.pairs.key(deep), self.pairs.value(shallow))
        q, k, v = (dealt(t, self.pairs.heads) for t in parts)
        return q, k, v

    def operator(self, *inputs: Tensor) -> Tensor:
        skip, context = inputs
        q, k, _ = self._parts(skip, context)
        return self.pairs.hood.materialise(q, k, self.pairs.factor(q))

    def values(self, *inputs: Tensor) -> Tensor:
        skip, context = inputs
        return self._parts(skip, context)[2].flatten(3)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        skip, context = inputs
        grid = tuple((skip if self.variant == "cross" else context).shape[2:])
        return self._let(self.pairs.collect(mixed_BMCN, grid), skip)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}"


def _placed(x: Tensor) -> Tensor:
    """With sines and cosines of its positions."""
    return x + sinusoid(tuple(x.shape[2:]), x.shape[1], x)
