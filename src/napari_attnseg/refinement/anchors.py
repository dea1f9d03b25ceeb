"""Strokes as a refinement knows them: pixels that are held while everything else goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pixels whose answer is known and is re-injected after every iteration, as CSPN re-injects
    sparse depth (Cheng et al. 2018, section 3.3).

    ``logits``: (B, K, N) what is held there. ``weight``: (B, 1, N) in [0, 1]; 1 holds the pixel
    exactly, 0 leaves it free, values between pull it.
    """

    logits: Tensor
    weight: Tensor

    def hold(self, x_BKN: Tensor) -> Tensor:
        """``x`` with the anchored pixels put back (exactly where the weight is 1)."""
        pulled = torch.lerp(x_BKN, self.logits, self.weight)
        return torch.where(self.weight == 1, self.logits, pulled)

    def part(self, window: tuple[slice, ...]) -> Anchors:
        """The anchors inside a window (batch and maps included)."""
        return Anchors(self.logits[window], self.weight[window])


def one_by_one(
    logits: Tensor, affinity: Tensor, attention: Tensor | None, anchors: Anchors | None
) -> tuple[Tensor, Tensor, Tensor | None, Anchors | None]:
    """Every map as an image of its own, with its own affinity: (B * K, 1, N) and so on."""
    b, k, *n = logits.shape
    alone = affinity.reshape(b * k, -1, *n)
    each = None if attention is None else attention.repeat_interleave(k, 0)
    if anchors is not None:
        held = anchors.logits.expand_as(logits).reshape(b * k, 1, *n)
        anchors = Anchors(held, anchors.weight.expand(b, 1, *n).repeat_interleave(k, 0))
    return logits.reshape(b * k, 1, *n), alone, each, anchors
