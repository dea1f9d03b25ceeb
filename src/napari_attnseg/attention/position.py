"""Position attention of the Dual Attention Network (Fu et al., CVPR 2019), equations 1 and 2."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.pairwise import (
    KEY_BIAS,
    Pairwise,
    PairwiseModule,
    check_ndim,
    inner_of,
    line,
)


@register_attention(
    "position",
    id="A12",
    title="Position attention",
    paper="Fu et al.: Dual Attention Network for Scene Segmentation (CVPR 2019)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class PositionAttention(PairwiseModule):
    """Every position gathers from all positions that look like it, near or far.

    Formula:
        q = W_q x, k = W_k x, v = W_v x
        y_i = x_i + gamma * sum_j softmax_j(q_i . k_j) v_j

    Symbols:
        x, y: features (B, C, N), N positions
        q, k: queries and keys (B, c, N), c = C / 8; W_q, W_k: 1x1 convolutions C to c
        v: values (B, C, N); W_v: 1x1 convolution C to C
        gamma: one learned number, 0 at the start, where the module is the identity

    Cost:
        10 N C^2 / 8 + N^2 (C / 8 + C) multiply-adds; 5 201 parameters at C = 64. The N x N matrix
        is never held: its rows are made in blocks, and again for the gradients.

    Notes:
        The scores are not divided by sqrt(c), as in the paper.

    Args:
        inner_channels: c of queries and keys (None: C / 8)
    """

    inert: ClassVar[dict[str, str]] = {"pairs.key.bias": KEY_BIAS}
    identity_at_start: ClassVar[bool] = True
    weighed_by: ClassVar[str] = "gamma"

    def __init__(self, channels: int, inner_channels: int | None = None, ndim: int = 2) -> None:
        super().__init__()
        check_ndim(ndim)
        inner = inner_of(channels, inner_channels, 8)
        self.pairs = Pairwise(
            line(channels, inner, ndim),
            line(channels, inner, ndim),
            line(channels, channels, ndim),
            scale=1.0,
        )
        self.gamma = nn.Parameter(torch.zeros(()))

    def finish(self, y: Tensor, *inputs: Tensor) -> Tensor:
        return inputs[0] + self.gamma * y
