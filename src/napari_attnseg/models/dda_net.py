"""DDANet (Tomar et al., ICPR workshops 2020): one encoder, two decoders, one attending the other.

The first decoder segments, the second paints the image in grey; at every level what the second
holds becomes a weight per position of the first: ``s * sigmoid(conv1(a))``. Encoder and decoders
are residual blocks with squeeze-and-excitation on their shortcuts.

As in the authors' code: channels 32 to 256 and back to 16, doubling by 4x4 transposed convolutions,
r = 16 without biases; 6,835,638 parameters for three channels and one class. Our reading: the
picture painted is compared with the mean of the channels as the network gets them by the mean
squared difference, because inputs here may have any range (there: cross-entropy against a grey
image in [0, 1]). That difference is the model's ``regulariser``; the paper adds it with weight 1
(``regulariser_weight=1``), with weight 0 the second decoder serves attention alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Role, create_attention
from napari_attnseg.models.attentive import Attentive, Standing, start_around
from napari_attnseg.models.base import Encoded, Place, pad_to_multiple, register_model
from napari_attnseg.models.blocks import scaled

CHANNELS = (32, 64, 128, 256)
"""Of the encoder, finest grid first; a decoder's level has half of them."""


class ShortcutSE(nn.Module):
    """``relu(norm(conv3(relu(norm(conv3(x))))) + se(norm(conv1(x))))``."""

    def __init__(self, inside: int, outside: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1), nn.BatchNorm2d(outside))
        self.se = create_attention("se", outside, reduction=reduction, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.se(self.shortcut(x)))


def two_blocks(inside: int, outside: int, reduction: int) -> nn.Sequential:
    """What every level of encoder and decoders is."""
    return nn.Sequential(
        ShortcutSE(inside, outside, reduction), ShortcutSE(outside, outside, reduction)
    )


class Step(nn.Module):
    """One level up: doubled, joined with the skip, two blocks."""

    def __init__(self, below: int, skip: int, outside: int, reduction: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, outside, 4, 2, 1)
        self.blocks = two_blocks(outside + skip, outside, reduction)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.blocks(torch.cat([self.up(below), skip], 1))
        return y


class OtherDecoder(AttentionModule):
    """A weight per position, from what another decoder holds there: ``x * sigmoid(W a + b)``."""

    role: ClassVar[Role] = "gate"
    maps: ClassVar[tuple[str, ...]] = ("gate",)
    emits: ClassVar[tuple[str, ...]] = ("spatial",)

    def __init__(self, channels: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.score = nn.Conv2d(context_channels or channels, 1, 1)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Two maps on one grid to the first one's shape."""
        weight = torch.sigmoid(self.score(other))
        if self.probe is not None:
            self.probe.note("gate", weight.squeeze(1), "spatial")
        return x * weight


@dataclass(frozen=True)
class Painted(Encoded):
    """``painting``: the second decoder's features, finest first; no strength changes them."""

    painting: tuple[Tensor, ...] = ()


class DDANet(Attentive):
    """Parts: ``encoder``, ``steps`` and ``painter`` (the two decoders), ``gates`` (all finest
    first), ``head`` and ``picture`` (1x1, classes and grey)."""

    def __init__(
        self, in_channels: int, classes: int, channels: tuple[int, ...], reduction: int
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            two_blocks(i, o, reduction) for i, o in pairwise((in_channels, *channels))
        )
        half = [c // 2 for c in channels]
        below = [*half[1:], channels[-1]]
        plan = list(zip(below, channels, half, strict=True))
        self.steps = nn.ModuleList(Step(b, s, o, reduction) for b, s, o in plan)
        self.painter = nn.ModuleList(Step(b, s, o, reduction) for b, s, o in plan)
        self.gates = nn.ModuleList(
            Standing(OtherDecoder(c), f"decoder {i + 1}, by the painter", 2**i)
            for i, c in enumerate(half)
        )
        self.head = nn.Conv2d(half[0], classes, 1)
        self.picture = nn.Conv2d(half[0], 1, 1)
        self.stride = int(2 ** len(channels))
        self.name_levels()
        start_around(self)

    @property
    def places(self) -> tuple[Place, ...]:
        """The gates, and the channel weights of all shortcuts, which have no strength."""
        found = [*super().places, *self._shortcuts()]
        return tuple(sorted(found, key=lambda place: place.stride))

    def _shortcuts(self) -> Iterator[Place]:
        for part in ("encoder", "steps", "painter"):
            said = "decoder" if part == "steps" else part
            for i in range(len(self.steps)):
                where = f"{part}.{i}" if part == "encoder" else f"{part}.{i}.blocks"
                grid = "full" if i == 0 else f"1/{2**i}"
                for k in range(2):
                    words = f"{said} {i + 1}, shortcut {k + 1}, {grid} resolution"
                    yield Place(f"{where}.{k}.se", words, 2**i)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """Encoder and painter."""
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        y = pad_to_multiple(x_BCHW, self.stride)
        skips: list[Tensor] = []
        for blocks in self.encoder:
            skips.append(blocks(y))
            y = F.max_pool2d(skips[-1], 2)
        painting: list[Tensor] = []
        a = y
        for level in reversed(range(len(skips))):
            a = self.painter[level](a, skips[level])
            painting.insert(0, a)
        self.regulariser = self._difference(a, x_BCHW) if self.training else None
        return Painted(y, size, tuple(skips), tuple(painting))

    def _difference(self, a: Tensor, x_BCHW: Tensor) -> Tensor:
        h, w = x_BCHW.shape[-2:]
        return F.mse_loss(self.picture(a)[..., :h, :w], x_BCHW.mean(1, keepdim=True))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        assert isinstance(encoded, Painted)
        at = self.strengths(values)
        y = encoded.features
        for level in reversed(range(len(self.steps))):
            y = self.steps[level](y, encoded.skips[level])
            y = self.gates[level](at, y, encoded.painting[level])
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]


@register_model(
    title="DDANet",
    paper="Tomar et al.: DDANet: Dual Decoder Attention Network for Automatic Polyp Segmentation "
    "(ICPR workshops 2020)",
)
def dda_net(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    reduction: int = 16,
) -> DDANet:
    """``width`` multiplies all channels; ``reduction``: r of squeeze-and-excitation."""
    channels = tuple(scaled(c, width) for c in CHANNELS)
    return DDANet(in_channels, classes, channels, reduction)
