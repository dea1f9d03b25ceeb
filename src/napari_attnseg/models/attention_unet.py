"""Attention U-Net (Oktay et al., MIDL 2018): additive gates at the skips of a U-Net.

Two forms. ``"fine"`` is the one that nearly all comparisons on images mean: a gate at each of the
four skips, its gating signal already on the skip's grid, products normalised, doubling by nearest
neighbours and a 3x3 convolution. ``"coarse"`` is as the paper's text has it: the gating signal on
the grid below, coefficients resampled, up-convolutions of the standard U-Net, and no gate at the
first skip ("low-level feature-maps ... do not represent the input data in a high dimensional
space").
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from napari_attnseg.attention.additive_gate import AdditiveGate
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import Encoded, Place, register_model
from napari_attnseg.models.blocks import TwoConvs, UpConv, he_start
from napari_attnseg.models.unet import (
    PlainEncoder,
    UDecoder,
    UNet,
    plain_channels,
    plain_decoder,
)
from napari_attnseg.settings import Tunable, Tuning

GATINGS = ("fine", "coarse")


class AttentionUNet(UNet):
    """A U-Net with ``gates`` (finest first) at its skips; the first ``bare`` skips have none."""

    def __init__(
        self, encoder: PlainEncoder, decoder: UDecoder, head: nn.Module, gating: str
    ) -> None:
        super().__init__(encoder, decoder, head)
        self.gating = gating
        self.bare = 1 if gating == "coarse" else 0
        channels = encoder.channels
        self.gates = nn.ModuleList(
            AdditiveGate(skip, below if gating == "coarse" else skip, norm=gating == "fine")
            for skip, below in list(pairwise(channels))[self.bare :]
        )
        self.strength = {f"level_{i + 1}": 1.0 for i in range(len(self.gates))}

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """How much each gate takes away."""
        return tuple(
            Tunable(level, "float", value, "gate", _STRENGTH_DOC.format(place.title))
            for (level, value), place in zip(self.strength.items(), self.places, strict=True)
        )

    def adopt(self, tuning: Tuning) -> None:
        for level, value in self.strength.items():
            self.strength[level] = float(tuning.get(level, value))

    @property
    def places(self) -> tuple[Place, ...]:
        places = []
        for i in range(len(self.gates)):
            skip = i + self.bare
            stride = 2 ** (skip + (self.gating == "coarse"))
            where = "full" if stride == 1 else f"1/{stride}"
            places.append(Place(f"gates.{i}", f"skip {skip + 1}, {where} resolution", stride))
        return tuple(places)

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        def through(level: int, skip: Tensor, below: Tensor, up: Tensor) -> Tensor:
            i = level - self.bare
            if i < 0:
                return skip
            context = below if self.gating == "coarse" else up
            name = f"level_{i + 1}"
            return self.gates[i](skip, context, float(values.get(name, self.strength[name])))

        return self.decoder(encoded.features, encoded.skips, through)


_STRENGTH_DOC = "Gate at {}: 0 lets its skip pass unchanged, 1 is as trained."


@register_model(
    title="Attention U-Net",
    paper="Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas (MIDL 2018)",
    choices={"gating": GATINGS},
)
def attention_unet(
    in_channels: int = 3,
    classes: int = 1,
    gating: str = "fine",
    width: float = 1.0,
    levels: int = 4,
) -> AttentionUNet:
    """``gating``: ``"fine"`` or ``"coarse"`` (see the module); ``width`` multiplies all channels;
    ``levels``: how often the size is halved."""
    if gating not in GATINGS:
        raise InputError(f"got gating={gating!r}, expected one of {', '.join(GATINGS)}")
    channels = plain_channels(width, levels)
    steps = list(pairwise(channels))
    decoder = plain_decoder(channels)
    if gating == "fine":
        decoder = UDecoder(
            [UpConv(below, own) for own, below in steps],
            [TwoConvs(2 * own, own) for own, _ in steps],
        )
    head = nn.Conv2d(channels[0], classes, 1)
    model = AttentionUNet(PlainEncoder(in_channels, channels), decoder, head, gating)
    he_start(model)
    return model
