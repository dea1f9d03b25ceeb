"""Multi-head self-attention and the vision transformer's block (Vaswani 2017; Dosovitskiy 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.neighbourhood import Size
from napari_attnseg.attention.pairwise import KEY_BIAS, Pairwise, check_ndim, heads_of, line
from napari_attnseg.attention.recording import Probe
from napari_attnseg.errors import InputError


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, *grid)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def perceptron(channels: int, ratio: float, ndim: int) -> nn.Module:
    """Two 1x1 convolutions with a GELU between them; nothing at ratio 0."""
    hidden = int(channels * ratio)
    if hidden == 0:
        return nn.Identity()
    return nn.Sequential(line(channels, hidden, ndim), nn.GELU(), line(hidden, channels, ndim))


class TransformerBlock(nn.Module):
    """``t = t + pairs(LN t); t + MLP(LN t)``; without a perceptron only the first half."""

    def __init__(self, channels: int, pairs: Pairwise, ratio: float, ndim: int) -> None:
        super().__init__()
        self.before = ChannelNorm(channels)
        self.pairs = pairs
        self.after = ChannelNorm(channels) if int(channels * ratio) else nn.Identity()
        self.mlp = perceptron(channels, ratio, ndim)

    def forward(self, x: Tensor, probe: Probe | None = None, name: str = "") -> Tensor:
        return self.finish(self.pairs(self.before(x), probe=probe, name=name), x)

    def finish(self, attended: Tensor, x: Tensor) -> Tensor:
        """What follows the attention."""
        x = x + attended
        if isinstance(self.mlp, nn.Identity):
            return x
        return x + self.mlp(self.after(x))


class Transformer(AttentionModule):
    """Blocks one after the other; the operator and the maps are those of the last."""

    stochastic: ClassVar[bool] = True
    blocks: nn.ModuleList

    def start(self, x: Tensor) -> Tensor:
        """What the first block gets."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        x = self._until_last(x)
        y: Tensor = self.blocks[-1](x, self.probe)
        return y

    def _until_last(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    @property
    def last(self) -> TransformerBlock:
        """The last block."""
        block = self.blocks[-1]
        assert isinstance(block, TransformerBlock)
        return block

    def operator(self, *inputs: Tensor) -> Tensor:
        return self.last.pairs.operator(self.last.before(self._until_last(inputs[0])))

    def values(self, *inputs: Tensor) -> Tensor:
        return self.last.pairs.values(self.last.before(self._until_last(inputs[0])))

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = self._until_last(inputs[0])
        return self.last.finish(self.last.pairs.collect(mixed_BMCN, tuple(x.shape[2:])), x)


def check_depth(depth: int, mlp_ratio: float) -> None:
    """At least one block, and a ratio that is not negative."""
    if depth < 1 or mlp_ratio < 0:
        raise InputError(
            f"got depth={depth}, mlp_ratio={mlp_ratio}, expected at least 1 and at least 0"
        )


def inert_keys(count: int) -> dict[str, str]:
    """The key biases of so many blocks."""
    return {f"blocks.{i}.pairs.key.bias": KEY_BIAS for i in range(count)}


def sinusoid(grid: Size, channels: int, like: Tensor) -> Tensor:
    """Positions as sines and cosines (channels, *grid): the channels are shared out among the
    axes; of each share one half are sines, the other cosines, of wavelengths from 2 pi to
    10 000 x 2 pi."""
    axes = len(grid)
    out = like.new_zeros(channels, *grid)
    start = 0
    for axis, n in enumerate(grid):
        share = channels // axes + (axis < channels % axes)
        shape = [n if i == axis else 1 for i in range(axes)]
        at = torch.arange(n, dtype=like.dtype, device=like.device)
        half = (share + 1) // 2
        speed = 10_000.0 ** -(torch.arange(half, dtype=like.dtype, device=like.device) / half)
        angle = speed[:, None] * at
        waves = torch.cat([angle.sin(), angle.cos()])[:share]
        out[start : start + share] = waves.view(share, *shape)
        start += share
    return out


@register_attention(
    "vit",
    id="A25",
    title="Multi-head self-attention (ViT block)",
    paper="Dosovitskiy et al.: An Image is Worth 16x16 Words (ICLR 2021); Vaswani et al.: "
    "Attention Is All You Need (NeurIPS 2017)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class VisionTransformer(Transformer):
    """Transformer blocks over all positions of a map.

    Formula:
        t = t + W_o concat_m softmax_j(q_im . k_jm / sqrt(d)) v_jm  of LN(t)
        t = t + W_2 gelu(W_1 LN(t))
        repeated depth times

    Symbols:
        t: the map's positions as tokens (B, N, C), at first x, with position="sinusoid" plus
        sines and cosines of row and column
        q, k, v: linear maps of a token, C channels in M heads of d = C / M; W_o: C to C
        W_1, W_2: C to mlp_ratio C and back; LN: normalisation over the channels of a token

    Cost:
        4 N C^2 + 2 N^2 C + 8 N C^2 multiply-adds a block; M N^2 weights, never held; 49 984
        parameters at C = 64 (16 640 without the perceptron).

    Notes:
        A vision transformer learns one vector per position of a fixed grid; a module whose size is
        known only when it runs cannot, so positions are sines and cosines or nothing (then the
        module cannot tell where anything lies).

    Args:
        heads: M (None: as many up to 8 as divide the channels)
        depth: blocks
        mlp_ratio: width of the perceptron in C; 0 leaves it out
        position: none, or sinusoid
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"position": ("none", "sinusoid")}
    structure: ClassVar[Structure] = "dense"
    inert: ClassVar[dict[str, str]] = inert_keys(1)

    def __init__(
        self,
        channels: int,
        heads: int | None = None,
        depth: int = 1,
        mlp_ratio: float = 4.0,
        position: str = "none",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_depth(depth, mlp_ratio)
        check_ndim(ndim)
        self.position = self.checked("position", position)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                channels,
                Pairwise(
                    *(line(channels, channels, ndim) for _ in range(4)),
                    heads=heads_of(channels, heads),
                ),
                mlp_ratio,
                ndim,
            )
            for _ in range(depth)
        )

    def start(self, x: Tensor) -> Tensor:
        if self.position == "none":
            return x
        return x + sinusoid(tuple(x.shape[2:]), x.shape[1], x)

    def extra_repr(self) -> str:
        return f"position={self.position!r}"
