"""A tiny model with attention at two skips, whose maps can be foretold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.models.base import Encoded, Place, SegmentationModel, pad_to_multiple
from napari_attnseg.settings import Tunable


class MeanGate(AttentionModule):
    """Adds the mean intensity of its cells; shows it, its deviation, and the asked cell."""

    def forward(self, skip: Tensor, level: float) -> Tensor:
        mean = skip.mean(1)
        if self.probe is not None:
            self.probe.note("mean", mean)
            self.probe.note("deviation", mean - mean.mean(), "signed")
            self.probe.note("weights", skip.mean((2, 3)), "channel")
            if self.probe.query is not None:
                i, j = self.probe.cell((mean.shape[1], mean.shape[2]))
                row = torch.zeros_like(mean)
                row[:, i, j] = 1.0
                self.probe.note("row", row, "row")
        return skip + level * mean[:, None]


class Block(nn.Module):
    """The gate is no direct part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = MeanGate()


class TwoGates(SegmentationModel):
    """Grids of 2 and 6 pixels under a padding of 12: the finer one may be larger than needed."""

    stride = 12

    def __init__(self) -> None:
        super().__init__()
        self.deep = MeanGate()
        self.skip = Block()

    @property
    def places(self) -> tuple[Place, ...]:
        return (Place("skip", "skip 1, 1/2 resolution", 2), Place("deep", "bottleneck, 1/6", 6))

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        doc = "Strength"
        return tuple(Tunable(f"level_{k}", "float", 1.0, "gate", doc) for k in (1, 2))

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        x = pad_to_multiple(x_BCHW, self.stride)
        return Encoded(F.avg_pool2d(x, 6), (h, w), (F.avg_pool2d(x, 2),))

    def gate(self, encoded: Encoded, attended: Any, **values: Any) -> Tensor:
        deep = self.deep(encoded.features, values.get("level_2", 1.0))
        near = self.skip.gate(encoded.skips[0], values.get("level_1", 1.0))
        return near + F.interpolate(deep, scale_factor=3.0, mode="nearest")

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        full = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return full[..., : size[0], : size[1]] - 2.0


def two_gates(in_channels: int = 1, classes: int = 1) -> TwoGates:
    """As a builder: hold it in the registry for the time of a test."""
    return TwoGates()
