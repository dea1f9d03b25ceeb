"""Non-local U-Net (Wang, Zou, Liu & Ji, AAAI 2020), in two dimensions.

The paper segments volumes; this is the same network over images. As in the paper: an encoder of
pre-activation residual blocks that halve the size by strided convolutions, skips that are added
(not joined), attention of every position over every other at the bottleneck (2 heads), and an
up-sampling that is attention too: its queries are a transposed convolution of the features, so that
every position of the finer grid asks all of the coarser one; the transposed convolution beside it
is the shortcut. ``levels=2`` and 32 channels are the paper's plan; only the deepest up-sampling is
attention, the others are residual blocks around a transposed convolution.

Our choices: the paper drops half of the attention weights while training; ``dropout`` does that,
but is 0 unless asked for, because weights that are dropped have to be held, all N x N of them. The
scores are divided by the square root of a head's channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Role
from napari_attnseg.attention.layers import Norm
from napari_attnseg.attention.neighbourhood import Everywhere
from napari_attnseg.attention.pairwise import Pairwise, heads_of, line, show
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing
from napari_attnseg.models.base import Encoded, pad_to_multiple, register_model
from napari_attnseg.models.blocks import scaled

CHANNELS = 32


def ready(channels: int) -> nn.Module:
    """What lies before every convolution: normalisation and an activation cut at 6."""
    return nn.Sequential(Norm(channels), nn.ReLU6())


def doubled(inside: int, outside: int, bias: bool = True) -> nn.Module:
    """3x3 transposed convolution to exactly twice the size."""
    return nn.ConvTranspose2d(inside, outside, 3, 2, 1, output_padding=1, bias=bias)


class PreResidual(nn.Module):
    """``shortcut(x) + conv(ready(conv(ready(x))))``; ``stride`` 2 halves the size."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ready(inside),
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            ready(outside),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        )
        same = inside == outside and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Aggregation(AttentionModule):
    """The paper's global aggregation block, without its shortcut's own layers.

    Formula:
        y_i = base_i + W_o concat_m sum_j softmax_j(q_im . k_jm / sqrt(d)) v_jm
    Symbols:
        z: relu6(norm(x)), the features x (B, C, h, w) made ready
        k, v: 1x1 convolutions of z; q: the same, or with ``up`` a 3x3 transposed one (2h, 2w)
        base, y: (B, out, h, w), with ``up`` (B, out, 2h, 2w)
    """

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    emits: ClassVar[tuple[str, ...]] = ("spatial", "row")

    def __init__(
        self, channels: int, out: int, heads: int, up: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.ready = ready(channels)
        self.pairs = Pairwise(
            doubled(channels, out) if up else line(channels, out),
            line(channels, out, bias=False),
            line(channels, out),
            line(out, out),
            heads=heads_of(out, heads),
        )

    def forward(self, base: Tensor, x: Tensor) -> Tensor:
        """``base`` with what its positions gather from ``x``."""
        q, k, v = self.pairs.parts(self.ready(x))
        scale = self.pairs.factor(q)
        if self.probe is not None:
            show(self.probe, Everywhere(), q, k, scale)
        if self.training and self.dropout:
            asked, keys, given = (t.flatten(3).mT.contiguous() for t in (q, k, v))
            y = F.scaled_dot_product_attention(
                asked, keys, given, dropout_p=self.dropout, scale=scale
            )
            mixed = y.mT.unflatten(3, q.shape[3:]).flatten(1, 2)
        else:
            mixed = self.pairs.mix(q, k, v)
        gathered: Tensor = self.pairs.out(mixed)
        return base + gathered


class PlainUp(nn.Module):
    """``doubled(x) + conv(ready(doubled(ready(x))))``."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ready(inside),
            doubled(inside, outside, bias=False),
            ready(outside),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        )
        self.shortcut = doubled(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class NonLocalUNet(Attentive):
    """Parts: ``stem``, ``downs`` (finest first), ``bottom`` and ``first_up`` (attention) with
    ``shortcut``, ``ups`` and ``blocks`` (finest first), ``head``."""

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], classes: int, dropout: float
    ) -> None:
        super().__init__()
        steps = list(pairwise(channels))
        self.stride = 2 ** len(steps)
        last, before = channels[-1], channels[-2]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False),
            PreResidual(channels[0], channels[0]),
        )
        self.downs = nn.ModuleList(PreResidual(own, below, 2) for own, below in steps)
        self.bottom = Standing(
            Aggregation(last, last, 2, dropout=dropout), "bottleneck", self.stride
        )
        self.shortcut = doubled(last, before)
        self.first_up = Standing(
            Aggregation(last, before, 1, up=True, dropout=dropout), "up-sampling", self.stride // 2
        )
        self.ups = nn.ModuleList(PlainUp(below, own) for own, below in steps[:-1])
        self.blocks = nn.ModuleList(PreResidual(own, own) for own, _ in steps)
        self.head = nn.Sequential(ready(channels[0]), nn.Conv2d(channels[0], classes, 1))
        self.name_levels()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        features = [self.stem(pad_to_multiple(x_BCHW, self.stride))]
        for down in self.downs:
            features.append(down(features[-1]))
        return Encoded(features[-1], (h, w), tuple(features[:-1]))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = self.strengths(values)
        x = encoded.features
        y = self.bottom(at, x, x)
        y = self.first_up(at, self.shortcut(y), y)
        for level in reversed(range(len(self.blocks))):
            if level < len(self.ups):
                y = self.ups[level](y)
            y = self.blocks[level](y + encoded.skips[level])
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]


@register_model(
    title="Non-local U-Net (2D form)",
    paper="Wang, Zou, Liu & Ji: Non-local U-Nets for Biomedical Image Segmentation (AAAI 2020), "
    "which is of volumes; here its two-dimensional form",
)
def nonlocal_unet(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    levels: int = 2,
    dropout: float = 0.0,
) -> NonLocalUNet:
    """``width`` multiplies all channels; ``levels``: how often the size is halved; ``dropout``: of
    the attention weights while training (the paper: 0.5; needs memory for all of them)."""
    if not 1 <= levels <= 6:
        raise InputError(f"got levels={levels}, expected 1 to 6 (the paper has 2)")
    if not 0 <= dropout < 1:
        raise InputError(f"got dropout={dropout}, expected 0 to below 1 (the paper has 0.5)")
    channels = tuple(scaled(CHANNELS * 2**i, width) for i in range(levels + 1))
    return NonLocalUNet(in_channels, channels, classes, dropout)
