"""Attention at fixed places of a network: shown where it stands, let through by degrees.

A network of this kind wraps every attention in a :class:`Standing` and calls it with the strengths
of :meth:`Attentive.strengths`; places, names of the strengths and their sliders follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.models.base import Place, SegmentationModel, Sketch
from napari_attnseg.models.blocks import he_start
from napari_attnseg.settings import Tunable, Tuning

Strengths = Mapping[str, float]
"""How much each attention is let through, by the name of its level."""


class Standing(nn.Module):
    """The attention ``module`` where it stands: ``where`` in words, ``stride`` of its grid in
    pixels; ``level`` is the name of its strength, empty where it cannot be left out."""

    def __init__(self, module: AttentionModule, where: str, stride: int) -> None:
        super().__init__()
        self.module = module
        self.where, self.stride = where, stride
        self.level = ""

    @property
    def title(self) -> str:
        """For people."""
        return titled(self.where, self.stride)

    def forward(self, at: Strengths, x: Any, *context: Tensor) -> Tensor:
        """``x`` with the attention's change let through by its strength (0 is ``x`` itself)."""
        strength = at.get(self.level, 1.0)
        if strength == 0.0 and self.module.probe is None:
            assert isinstance(x, Tensor)
            return x
        y: Tensor = self.module(x, *context)
        return y if strength == 1.0 else torch.lerp(x, y, strength)


def titled(where: str, stride: int) -> str:
    """A place for people."""
    return f"{where}, {'full' if stride == 1 else f'1/{stride}'} resolution"


class Attentive(SegmentationModel):
    """A model with :class:`Standing` attention; its constructor ends with ``name_levels``."""

    strength: dict[str, float]

    def standing(self) -> list[tuple[str, Standing]]:
        """All attention with its name in the model, finest grid first."""
        found = [(n, m) for n, m in self.named_modules() if isinstance(m, Standing)]
        return sorted(found, key=lambda item: item[1].stride)

    def name_levels(self) -> None:
        """Give each attention that can be left out its level, finest grid first."""
        able = [s for _, s in self.standing() if s.module.bypassable]
        for i, standing in enumerate(able):
            standing.level = f"level_{i + 1}"
        self.strength = {s.level: 1.0 for s in able}

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(
            Place(f"{name}.module", s.title, s.stride, s.level) for name, s in self.standing()
        )

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """How much each attention that can be left out is let through."""
        return tuple(
            slider(s.level, s.title, self.strength[s.level]) for _, s in self.standing() if s.level
        )

    def adopt(self, tuning: Tuning) -> None:
        for level, value in self.strength.items():
            self.strength[level] = float(tuning.get(level, value))

    def strengths(self, values: Mapping[str, Any]) -> Strengths:
        """The strengths among ``values``, the trained ones elsewhere."""
        return {level: float(values.get(level, v)) for level, v in self.strength.items()}


def slider(level: str, title: str, value: float = 1.0) -> Tunable:
    """How much the attention of ``title`` is let through."""
    return Tunable(level, "float", value, "gate", _DOC.format(title))


_DOC = "Attention at {}: 0 is the network without it, 1 is as trained."


def sketched(parameters: int, standing: Sequence[tuple[str, str, int]]) -> Sketch:
    """The sketch of a model with attention: name of each module, where it stands in words and its
    stride, finest grid first."""
    places = tuple(
        Place(module, titled(where, stride), stride, f"level_{i + 1}")
        for i, (module, where, stride) in enumerate(standing)
    )
    return Sketch(parameters, places, tuple(slider(p.level, p.title) for p in places))


def start_around(part: nn.Module) -> None:
    """He et al.'s start for the network's own convolutions; attention begins as it was made."""
    if isinstance(part, AttentionModule):
        return
    children = list(part.children())
    if not children:
        he_start(part)
    for child in children:
        start_around(child)
