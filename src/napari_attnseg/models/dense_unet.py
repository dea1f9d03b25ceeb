"""DenseUNet of the Joint Attention paper: H-DenseUNet's 2D network with attention at its skips.

Encoder: DenseNet. Decoder (H-DenseUNet, Li et al. 2018): nearest-neighbour doubling, the skip is
added (the one at 1/16 through a 1x1 convolution, so that channels agree), 3x3 convolution, BN,
ReLU; at full resolution a convolution to 64 channels, dropout 0.3, BN, ReLU and a 1x1 convolution
to the classes. Attention stands on the four encoder taps, before they are added.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from napari_attnseg.attention.base import Attended, AttentionModule, create_attention
from napari_attnseg.attention.joint import MERGES, SIGMAS
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import (
    Encoded,
    Place,
    SegmentationModel,
    pad_to_multiple,
    register_model,
)
from napari_attnseg.models.blocks import he_start
from napari_attnseg.models.densenet import PLANS, DenseNet, densenet
from napari_attnseg.settings import Tunable, Tuning

ATTENTIONS = {"none": "", "sa": "nonlocal", "pwa": "pointwise", "ja": "joint"}
"""The paper's names of the four forms to those of the attention modules."""
LEVELS = ("level_1", "level_2", "level_3", "level_4")
"""The skips, finest first: 1/2, 1/4, 1/8 and 1/16 resolution."""


class Up(nn.Module):
    """Double the size, add the skip, convolve: ``relu(bn(conv3x3(up(x) + skip)))``."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.norm(self.conv(doubled(x) + skip)).relu_()


def doubled(x: Tensor) -> Tensor:
    """Every pixel becomes 2 x 2 equal ones."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class DenseUNet(SegmentationModel):
    """Parts: ``encoder``, ``attention`` (by level), ``line`` (the 1x1 convolution of the deepest
    skip), ``ups`` (deepest first), ``head``. With plan 161, 3 channels and 2 classes 49,527,778
    parameters, and 24.26 GMACs at 256 x 256."""

    gate_values: ClassVar[tuple[str, ...]] = LEVELS

    def __init__(
        self,
        encoder: DenseNet,
        attention: dict[str, AttentionModule],
        classes: int,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = nn.ModuleDict(attention)
        finest, *_, deepest, top = encoder.channels
        self.line = nn.Conv2d(deepest, top, 1)
        inside = (top, *encoder.channels[-3::-1])  # what is added at 1/16, 1/8, 1/4, 1/2
        self.ups = nn.ModuleList(
            Up(i, o) for i, o in zip(inside, (*inside[1:], finest), strict=True)
        )
        tail = encoder.plan.tail
        self.head = nn.Sequential(
            nn.Conv2d(finest, tail, 3, padding=1),
            nn.Dropout(dropout),
            nn.BatchNorm2d(tail),
            nn.ReLU(inplace=True),
            nn.Conv2d(tail, classes, 1),
        )
        self.stride = encoder.strides[-1]
        self.strength = dict.fromkeys(attention, 1.0)
        for part in (self.line, self.ups, self.head):
            he_start(part)

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        return tuple(
            Tunable(level, "float", value, "gate", _STRENGTH_DOC.format(place.title))
            for (level, value), place in zip(self.strength.items(), self.places, strict=True)
        )

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(
            Place(f"attention.{level}", f"skip {level[-1]}, 1/{stride} resolution", stride)
            for level, stride in zip(LEVELS, self.encoder.strides, strict=False)
            if level in self.attention
        )

    def adopt(self, tuning: Tuning) -> None:
        for level, value in self.strength.items():
            self.strength[level] = float(tuning.get(level, value))

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        *skips, top = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(top, (h, w), tuple(skips))

    def gate(self, encoded: Encoded, attended: Attended | None = None, **values: Any) -> Tensor:
        """Features at 1/2 resolution. ``level_1`` to ``level_4``: strength of the attention there
        (1: as trained, 0: none)."""
        skips = list(encoded.skips)
        for i, level in enumerate(LEVELS):
            if level in self.attention:
                strength = float(values.get(level, self.strength[level]))
                skips[i] = self.attention[level](skips[i], strength)
        y = encoded.features
        skips[-1] = self.line(skips[-1])
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            y = up(y, skip)
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(doubled(features))[..., : size[0], : size[1]]


_STRENGTH_DOC = "Attention at {}: 0 leaves it out, 1 is as trained."


def _options(kind: str, structure: int, parallel_merge: str, sigma: str) -> dict[str, Any]:
    """What the attention of this kind wants to know."""
    if kind == "ja":
        return {"structure": structure, "parallel_merge": parallel_merge, "sigma": sigma}
    return {"pwa": {"sigma": sigma}, "sa": {"mode": "dot"}}.get(kind, {})


@register_model(
    title="DenseUNet with Joint Attention",
    paper="Joint Attention for Medical Image Segmentation",
    choices={
        "plan": tuple(PLANS),
        "attention": tuple(ATTENTIONS),
        "structure": tuple(range(1, 10)),
        "parallel_merge": MERGES,
        "sigma": SIGMAS,
    },
)
def dense_unet(
    in_channels: int = 3,
    classes: int = 1,
    plan: str = "161",
    attention: str = "ja",
    structure: int = 5,
    parallel_merge: str = "gate",
    sigma: str = "sigmoid",
    levels: str = "1234",
    dropout: float = 0.3,
) -> DenseUNet:
    """``plan`` 161, 121 or narrow; ``attention`` none, sa (self-attention), pwa (point-wise) or ja
    (joint) at the skips ``levels`` (1 = finest); ``structure`` 1 to 9, ``parallel_merge`` gate or
    sum and ``sigma`` sigmoid or none as in ``JointAttention``; ``dropout`` before the classes."""
    if attention not in ATTENTIONS:
        raise InputError(f"got attention {attention!r}, expected one of {', '.join(ATTENTIONS)}")
    wanted = {f"level_{c}" for c in str(levels)}
    if not wanted or not wanted <= set(LEVELS):
        raise InputError(f"got levels {levels!r}, expected some of the digits 1234")
    if not 0 <= dropout < 1:
        raise InputError(f"got dropout={dropout}, expected 0 or more and below 1")
    encoder = densenet(str(plan), in_channels)
    options = _options(attention, structure, parallel_merge, sigma)
    modules = {
        level: create_attention(ATTENTIONS[attention], channels, **options)
        for level, channels in zip(LEVELS, encoder.channels, strict=False)
        if attention != "none" and level in wanted
    }
    return DenseUNet(encoder, modules, classes, dropout)
