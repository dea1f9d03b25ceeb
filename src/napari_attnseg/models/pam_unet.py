"""PAM-UNet (arXiv:2405.01503): MobileNetV2 encoder, Progressive Luong Attention at every skip.

At every level, from the deepest to the finest, the lower decoder feature goes three ways: through
an inverted residual block and a transposed convolution into the attention gate of the skip, through
a transposed convolution of its own, and both meet in an inverted residual block (figure 2a).

The plan of channels and the number of operations of the paper's figure and tables agree in one
reading of the figure, ``plan="figure"``: 31,568,498 parameters with two classes, and at 128 x 128
0.720 GMACs without and 1.317 with attention, of which the products of attention are 0.592. Two
inverted residual blocks of 1028 channels hold 25 million of the parameters.

The regulariser of equation 7 hardly acts under ``sigma="softmax"``, where it cannot exceed
(N - 1) / N^2 (0.00024 at the first level of a 128 x 128 image, before its weight of 0.01), and does
under ``"sigmoid"``, where it may reach 0.25.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.additive_gate import AdditiveGate
from napari_attnseg.attention.base import Attended
from napari_attnseg.attention.luong import LuongAttention
from napari_attnseg.attention.mixing import SIGMAS
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import (
    Encoded,
    Place,
    SegmentationModel,
    pad_to_multiple,
    register_model,
)
from napari_attnseg.models.inverted_residual import LAST, InvertedResidual, MobileNetV2
from napari_attnseg.settings import Tunable, Tuning

GATES = ("none", "self", "cross", "additive", "pla")
Gate = LuongAttention | AdditiveGate


@dataclass(frozen=True)
class Plan:
    """What a size of the network is made of.

    ``last``: channels of the encoder's last 1x1 convolution (0: none). ``width`` multiplies all
    channels. ``blocks``: inverted residuals at the bottleneck and in the gates' branches, whose
    key and value are 1x1 convolutions; without, the transposed convolution splits into key and
    value (the paper's text).
    """

    last: int
    width: float
    blocks: bool


PLANS = {
    "figure": Plan(1028, 1.0, True),
    "light": Plan(LAST, 1.0, False),
    "tiny": Plan(0, 0.4, False),
}
"""figure: the paper's. light: 8.8 million parameters, 0.94 GMACs. tiny: 0.7 million, 0.27."""


class Level(nn.Module):
    """One step of the decoder: ``low`` (B, below, h, w) and the skip (B, channels, 2h, 2w) to
    (B, channels, 2h, 2w)."""

    def __init__(self, below: int, channels: int, kind: str, sigma: str, blocks: bool) -> None:
        super().__init__()
        split = kind == "pla" and not blocks
        block = [InvertedResidual(below, below)] if blocks else []
        self.branch: nn.Module | None = None
        if kind != "self":
            self.branch = nn.Sequential(*block, _double(below, channels * (2 if split else 1)))
        self.gate = _gate(kind, channels, sigma, split)
        self.value = nn.Conv2d(channels, channels, 1) if kind == "none" and blocks else None
        self.up = _double(below, channels)
        self.merge = InvertedResidual(2 * channels, channels)

    def context(self, low: Tensor, skip: Tensor) -> Tensor:
        """What the gate hears of the lower layer (of the skip itself under ``"self"``)."""
        return skip if self.branch is None else self.branch(low)

    def forward(self, low: Tensor, skip: Tensor, strength: float = 1.0) -> Tensor:
        context = self.context(low, skip)
        if self.gate is None:
            joined = skip + (context if self.value is None else self.value(context))
        else:
            joined = self.gate(skip, context, strength)
        return self.merge(torch.cat((joined, self.up(low)), 1))

    def heavy(self, low: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What no strength changes: the attended value (the context, where nothing is attended)
        and the lower feature at this level's size."""
        heard = self.context(low, skip)
        if isinstance(self.gate, LuongAttention):
            heard = self.gate.attend(skip, heard)
        return heard, self.up(low)

    def light(self, heavy: tuple[Tensor, Tensor], skip: Tensor, strength: float) -> Tensor:
        """The rest: ``light(heavy(low, skip), skip, strength)`` is ``forward``."""
        heard, up = heavy
        if isinstance(self.gate, LuongAttention):
            joined = self.gate.gate(skip, heard, strength)
        elif self.gate is not None:
            joined = self.gate(skip, heard, strength)
        else:
            joined = skip + (heard if self.value is None else self.value(heard))
        return self.merge(torch.cat((joined, up), 1))


def _double(inside: int, outside: int) -> nn.ConvTranspose2d:
    """Transposed convolution to exactly twice the size."""
    return nn.ConvTranspose2d(inside, outside, 4, 2, 1)


def _gate(kind: str, channels: int, sigma: str, split: bool) -> Gate | None:
    if kind == "none":
        return None
    if kind == "additive":
        return AdditiveGate(channels)
    direction = "progressive" if kind == "pla" else kind
    return LuongAttention(channels, sigma=sigma, direction=direction, split=split)


@dataclass
class _Kept:
    """Heavy halves of the levels for one image: level to (strengths of the levels below it, its
    heavy half). While a person moves a level, those below it need not run again."""

    features: Tensor
    versions: tuple[int, ...]
    levels: dict[int, tuple[tuple[float, ...], tuple[Tensor, Tensor]]]


class PamUNet(SegmentationModel):
    """Parts: ``encoder`` (MobileNetV2), ``bottleneck``, ``levels`` (finest first), ``head``."""

    def __init__(
        self, encoder: MobileNetV2, bottleneck: nn.Module, levels: list[Level], head: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.levels = nn.ModuleList(levels)
        self.head = head
        self.stride = encoder.strides[-1]
        self._kept: _Kept | None = None
        self.strength = {
            f"level_{number}": 1.0
            for number, level in enumerate(levels, 1)
            if level.gate is not None
        }

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        return tuple(
            Tunable(name, "float", value, "gate", _STRENGTH_DOC.format(_place(name, self.encoder)))
            for name, value in self.strength.items()
        )

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(
            Place(f"levels.{i}.gate", f"skip {i + 1}, 1/{stride} resolution", stride)
            for i, stride in enumerate(self.encoder.strides[:-1])
            if f"level_{i + 1}" in self.strength
        )

    def adopt(self, tuning: Tuning) -> None:
        for name, value in self.strength.items():
            self.strength[name] = float(tuning.get(name, value))

    def forget(self) -> None:
        """Let go of the last image's heavy halves."""
        self._kept = None

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        *skips, deepest = self.encoder(pad_to_multiple(x_BCHW, self.stride))
        return Encoded(self.bottleneck(deepest), (h, w), tuple(skips))

    def gate(self, encoded: Encoded, attended: Attended | None = None, **values: Any) -> Tensor:
        """(B, 16 * width, H/2, W/2); ``level_N`` scales what attention adds at that level.

        In training mode ``regulariser`` becomes the mean over the levels of their gates' (the
        variance of all attention weights, equation 7).
        """
        strengths = [
            float(values.get(f"level_{i}", self.strength.get(f"level_{i}", 1.0)))
            for i in range(1, len(self.levels) + 1)
        ]
        if values and self._may_keep():
            return self._moved(encoded, strengths)
        y = encoded.features
        for i in reversed(range(len(self.levels))):
            y = self.levels[i](y, encoded.skips[i], strengths[i])
        self.regulariser = self._regulariser() if self.training else None
        return y

    def _may_keep(self) -> bool:
        gates = (level.gate for level in self.levels)
        watched = any(gate is not None and gate.probe is not None for gate in gates)
        return not (self.training or torch.is_grad_enabled() or watched)

    def _moved(self, encoded: Encoded, strengths: list[float]) -> Tensor:
        """:meth:`gate` when strengths are asked for, as while a slider moves."""
        versions = tuple(p._version for p in self.levels.parameters())
        kept = self._kept
        if kept is None or kept.features is not encoded.features or kept.versions != versions:
            kept = self._kept = _Kept(encoded.features, versions, {})
        y = encoded.features
        for i in reversed(range(len(self.levels))):
            below = tuple(strengths[i + 1 :])
            known, heavy = kept.levels.get(i, (None, None))
            if heavy is None or known != below:
                heavy = self.levels[i].heavy(y, encoded.skips[i])
                kept.levels[i] = (below, heavy)
            y = self.levels[i].light(heavy, encoded.skips[i], strengths[i])
        return y

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.head(features)[..., : size[0], : size[1]]

    def _regulariser(self) -> Tensor | None:
        gates = [level.gate for level in self.levels]
        found = [gate.regulariser for gate in gates if isinstance(gate, LuongAttention)]
        each = [value for value in found if value is not None]
        return torch.stack(each).mean() if each else None


def _place(name: str, encoder: MobileNetV2) -> str:
    return f"1/{encoder.strides[int(name.removeprefix('level_')) - 1]} resolution"


@register_model(
    title="PAM-UNet",
    paper="PAM-UNet: Shifting Attention on Region of Interest in Medical Images",
    choices={"gate": GATES, "sigma": SIGMAS, "plan": tuple(PLANS), "finest": (1, 2, 3, 4)},
)
def pam_unet(
    in_channels: int = 3,
    classes: int = 1,
    gate: str = "pla",
    sigma: str = "softmax",
    plan: str = "figure",
    width: float = 1.0,
    finest: int = 1,
) -> PamUNet:
    """``gate`` at the skips: ``"pla"`` (the paper's), ``"self"``, ``"cross"``, ``"additive"`` or
    ``"none"`` (the lower feature is added without attention: the paper's mobile
    encoder-decoder). ``sigma``: ``"softmax"``, ``"sigmoid"`` or ``"double"`` (see
    ``attention.mixing``). ``plan``: ``"figure"``, ``"light"`` or ``"tiny"``; ``width`` multiplies
    its channels. ``finest``: the first level with a gate, 1 at half the image's resolution, up
    to 4; finer ones get none, so that large images stay affordable."""
    if gate not in GATES:
        raise InputError(f"got gate {gate!r}, expected one of {', '.join(GATES)}")
    if plan not in PLANS:
        raise InputError(f"got plan {plan!r}, expected one of {', '.join(PLANS)}")
    if finest not in range(1, 5):
        raise InputError(f"got finest={finest}, expected a level from 1 to 4")
    size = PLANS[plan]
    encoder = MobileNetV2(in_channels, width * size.width, size.last)
    *skips, deepest = encoder.channels
    below = [*skips[1:], deepest]
    levels = [
        Level(low, channels, gate if number >= finest else "none", sigma, size.blocks)
        for number, (low, channels) in enumerate(zip(below, skips, strict=True), 1)
    ]
    bottleneck = InvertedResidual(deepest, deepest) if size.blocks else nn.Identity()
    head = nn.Sequential(
        _double(skips[0], skips[0]), nn.ReLU6(inplace=True), nn.Conv2d(skips[0], classes, 1)
    )
    return PamUNet(encoder, bottleneck, levels, head)


_STRENGTH_DOC = (
    "How much of the attended value is added to the skip at {}: 1 as trained, 0 the prediction "
    "without attention at this level."
)
