"""Attention along one axis of a volume: frames of a film, slices of a scan."""

from __future__ import annotations

from typing import ClassVar

from napari_attnseg.attention.base import Structure, register_attention
from napari_attnseg.attention.neighbourhood import Line
from napari_attnseg.attention.pairwise import KEY_BIAS, Pairwise, PairwiseModule, heads_of, line


@register_attention(
    "temporal",
    id="A32",
    title="Temporal attention",
    paper="Vaswani et al.: Attention Is All You Need (NeurIPS 2017), along frames or slices",
    kinds=("spatial", "row"),
    ndim=(3,),
)
class TemporalAttention(PairwiseModule):
    """Every pixel looks at the same pixel in all frames or slices.

    Formula:
        y_{t,p} = x_{t,p} + W_o concat_m sum_s softmax_s(q_{t,p} . k_{s,p} / sqrt(d)) v_{s,p}

    Symbols:
        x, y: features (B, C, D, H, W); t, s: frames or slices (D), p: pixels (H, W)
        q, k, v: 1x1x1 convolutions of x, C channels in M heads of d = C / M
        W_o: 1x1x1 convolution C to C

    Cost:
        4 N C^2 + 2 N D C multiply-adds with N = D H W, M N D weights; 16 640 parameters at C = 64.

    Notes:
        The general form behind attention over time; for a scan the third axis is the slice. Pixels
        do not move: where frames are not aligned, a 3x3 convolution before it helps.

    Args:
        heads: M (None: as many up to 4 as divide the channels)
    """

    inert: ClassVar[dict[str, str]] = {"pairs.key.bias": KEY_BIAS}
    structure: ClassVar[Structure] = "sparse"

    def __init__(self, channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.pairs = Pairwise(
            *(line(channels, channels, 3) for _ in range(4)),
            heads=heads_of(channels, heads, most=4),
            hood=Line(0),
        )
