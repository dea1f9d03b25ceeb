"""Hard attention: positions are kept or left out, nothing between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Gating, conv, resized
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

MODES = ("learned", "topk", "gumbel", "given")


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The hard value exactly, with the gradient of the soft one."""
    return hard.detach() + (soft - soft.detach())


@register_attention(
    "hard",
    id="A29",
    title="Hard attention",
    paper="Bengio, Leonard & Courville: Estimating or Propagating Gradients Through Stochastic "
    "Neurons (2013), straight-through; Jang, Gu & Poole: Categorical Reparameterization with "
    "Gumbel-Softmax (ICLR 2017)",
    kinds=("spatial",),
    ndim=(2, 3),
)
class HardAttention(Gating):
    """A mask of zeros and ones: positions outside it are gone.

    Formula:
        p = sigmoid(W x)
        m = 1 where p > t, else 0
        y = x * m
    Symbols:
        x, y: features (B, C, N)
        p: score of every position (B, 1, N); W: 1 x 1 convolution
        m: mask (B, 1, N) in {0, 1}; t: threshold
    Cost:
        N C multiply-adds; C + 1 weights; the map has N numbers
    Notes:
        No one paper defines it; four forms. learned: as above, the gradient passes the step as if
        m were p (straight-through). topk: the given share of positions with the highest p, per
        image. gumbel: in training the mask is drawn, with logistic noise on the score and the
        gradient of sigmoid((W x + noise) / T); afterwards as learned. given: a mask that is set
        from outside (hold), such as a painted region; until one is set everything is kept.
    Args:
        mode: where the mask comes from
        threshold: t of learned and gumbel
        keep: share of the positions that topk keeps
        temperature: T of gumbel
    """

    maps: ClassVar[tuple[str, ...]] = ("mask", "score")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}

    def __init__(
        self,
        channels: int,
        mode: str = "learned",
        threshold: float = 0.5,
        keep: float = 0.25,
        temperature: float = 1.0,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.mode = str(self.checked("mode", mode))
        if not (0 <= threshold <= 1 and 0 < keep <= 1 and temperature > 0):
            raise InputError(
                f"got threshold={threshold}, keep={keep}, temperature={temperature}, expected "
                "0 to 1, above 0 up to 1, above 0"
            )
        self.threshold, self.keep, self.temperature = float(threshold), keep, temperature
        self.mask: Tensor | None = None
        self.score = None if mode == "given" else conv(ndim, channels, 1)

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """The threshold, where there is one."""
        if self.mode not in ("learned", "gumbel"):
            return ()
        return (Tunable("threshold", "float", self.threshold, "gate", _THRESHOLD_DOC),)

    def hold(self, mask: Tensor | None) -> None:
        """Set the mask of mode ``given``: (N), (B, N) or (B, 1, N) on any grid, positions above 0
        are kept; ``None`` keeps everything. Raises ``InputError`` in other modes."""
        if self.mode != "given":
            raise InputError(f"got a mask for mode {self.mode!r}, expected mode 'given'")
        self.mask = None if mask is None else (mask > 0)

    def forward(self, x_BCN: Tensor, threshold: float | None = None) -> Tensor:
        """(B, C, N) to the same; ``threshold``: ``None`` for the module's own."""
        return x_BCN * self.weights(x_BCN, threshold)

    def weights(self, x_BCN: Tensor, threshold: float | None = None) -> Tensor:
        """m: (B, 1, N) in {0, 1}."""
        if self.score is None:
            return self.shown("mask", self._given(x_BCN), x_BCN.shape[2:])
        score = self.score(x_BCN)
        if self.mode == "gumbel" and self.training:
            u = torch.rand_like(score).clamp(1e-6, 1 - 1e-6)
            score = (score + torch.logit(u)) / self.temperature
        p = torch.sigmoid(score)
        limit = self._limit(p) if self.mode == "topk" else None
        t = self.threshold if threshold is None else threshold
        hard = (p > t) if limit is None else (p >= limit)
        self.shown("score", p, x_BCN.shape[2:])
        return self.shown("mask", straight_through(hard.to(p.dtype), p), x_BCN.shape[2:])

    def _limit(self, p_B1N: Tensor) -> Tensor:
        """The lowest kept score of every image, with as many axes as p."""
        flat = p_B1N.flatten(1)
        k = max(1, round(self.keep * flat.shape[1]))
        return flat.topk(k, 1).values[:, -1].reshape(-1, *(1,) * (p_B1N.ndim - 1))

    def _given(self, x_BCN: Tensor) -> Tensor:
        if self.mask is None:
            return x_BCN.new_ones(len(x_BCN), 1, *x_BCN.shape[2:])
        mask = self.mask.to(x_BCN)
        while mask.ndim < x_BCN.ndim:
            mask = mask.unsqueeze(0 if mask.ndim == x_BCN.ndim - 2 else 1)
        mask = resized(mask, x_BCN.shape[2:], smooth=False)
        return mask.expand(len(x_BCN), *mask.shape[1:])


_THRESHOLD_DOC = "Positions whose score is not above this are left out; 0 keeps nearly all."
