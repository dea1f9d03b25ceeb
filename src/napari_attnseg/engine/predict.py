"""What a prediction is: from logits to probability and labels, and where its maps lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class Answer:
    """End of the chain, in the network's standing: ``logits`` (C, Y, X), ``probability``
    float32 (Y, X) and ``labels`` uint8 (Y, X)."""

    logits: torch.Tensor
    probability: torch.Tensor
    labels: torch.Tensor


def cut_logits(logits_CYX: torch.Tensor, cut: float) -> Answer:
    """Probability and labels from logits.

    One channel: ``p = sigmoid(logit)``, label 1 where ``p >= cut``. Several (0 = background):
    with the strongest foreground class f, ``p = p_f / (p_f + p_0) = sigmoid(l_f - l_0)``,
    label f where ``p >= cut``.
    """
    logits_CYX = logits_CYX.contiguous()  # the last bit of a sigmoid depends on the layout
    if logits_CYX.shape[0] == 1:
        probability = torch.sigmoid(logits_CYX[0].float())
        return Answer(logits_CYX, probability, (probability >= cut).to(torch.uint8))
    best, index = logits_CYX[1:].float().max(0)
    probability = torch.sigmoid(best - logits_CYX[0].float())
    labels = torch.where(probability >= cut, index + 1, 0).to(torch.uint8)
    return Answer(logits_CYX, probability, labels)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answer for one slice, in view orientation.

    ``labels``: uint8 (Y, X) class ids. ``probability``: float32 (Y, X) of the strongest
    foreground class against the background. ``logits``: float32 (C, Y, X). ``step``: float32
    (h, w) on the attention grid, ``None`` for a model without one. ``over`` of ``cells``: grid
    cells above the threshold. ``woken``: the stages that ran.
    """

    labels: np.ndarray
    probability: np.ndarray
    logits: np.ndarray
    step: np.ndarray | None
    over: int
    cells: int
    woken: tuple[str, ...]
    _received: Callable[[], np.ndarray | None] = field(repr=False, default=lambda: None)

    @property
    def received(self) -> np.ndarray | None:
        """Attention received (h, w) at this tuning; made on first use (see
        :meth:`Session.received`)."""
        return self._received()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Foreground pixels against plain attention at the same cut: bool (Y, X) maps and counts.

    ``gained``: only with the threshold; ``lost``: only without; ``kept``: in both.
    """

    gained: np.ndarray
    lost: np.ndarray
    kept: np.ndarray

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pixels gained, lost, kept."""
        return int(self.gained.sum()), int(self.lost.sum()), int(self.kept.sum())


@dataclass(frozen=True)
class MapScale:
    """Where the attention grid lies on the slice: cell (i, j) has its centre at pixel
    ``offset + scale * (i, j)`` (rows, columns; pixel centres are whole numbers). ``grid``: (h, w).
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    grid: tuple[int, int]

    def cell_at(self, y: float, x: float) -> tuple[int, int]:
        """The cell that holds pixel (y, x); pixels outside give the nearest cell."""
        i, j = (
            min(max(int(np.floor((p - o) / s + 0.5)), 0), n - 1)
            for p, s, o, n in zip((y, x), self.scale, self.offset, self.grid, strict=True)
        )
        return i, j


def place_grid(
    size: tuple[int, int], work: tuple[int, int], stride: int, flips: tuple[bool, bool]
) -> MapScale:
    """Lay the grid of a network with ``stride`` over a slice of ``size`` (Y, X).

    ``work``: size at which the network saw it. ``flips``: axes reversed before the network.
    """
    h, w = (-(-n // stride) for n in work)
    return place_map(size, work, (h * stride, w * stride), (h, w), flips)


def place_map(
    size: tuple[int, int],
    work: tuple[int, int],
    padded: tuple[int, int],
    grid: tuple[int, int],
    flips: tuple[bool, bool],
) -> MapScale:
    """Lay a map of ``grid`` (h, w) that covers the ``padded`` input over a slice of ``size``."""
    (rows, top), (cols, left) = (
        place_axis(*of) for of in zip(size, work, padded, grid, flips, strict=True)
    )
    return MapScale((rows, cols), (top, left), grid)


def place_axis(
    size: int, work: int, padded: float, grid: int, flipped: bool, first: int = 0
) -> tuple[float, float]:
    """Along one axis of ``size`` positions, of which the network saw ``work``: distance between
    the ``grid`` cells of a map, and the centre of its first one.

    The map covers ``padded`` working positions from number ``first`` on. The network fills its
    input up behind the last position; on a flipped axis that is before the first one of the view,
    so the centre becomes smaller, possibly negative.
    """
    step = padded / grid * size / work
    centre = first * size / work + (step - 1) / 2
    return step, size - 1 - centre - step * (grid - 1) if flipped else centre
