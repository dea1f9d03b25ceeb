"""The iterations as plain functions, for ``torch.compile``, and a way back where it cannot.

A compiled step reads every affinity once and writes every pixel once. Compiling takes ten seconds
and more, again for a second shape, and needs a C++ compiler (on a GPU: Triton); without one the
usual form runs and :attr:`Fused.note` says why.

Legend: B = batch, K = maps, N = spatial axes, R = rings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.refinement.neighbours import Offset


def near(weight_BON: Tensor, x_BKN: Tensor, offsets: tuple[Offset, ...]) -> Tensor:
    """``sum_k weight_k(p) x(p + offset_k)`` with zeros outside, without in-place work."""
    reach = [max(abs(o[axis]) for o in offsets) for axis in range(len(offsets[0]))]
    padded = F.pad(x_BKN, [r for r in reversed(reach) for _ in range(2)])
    total = torch.zeros_like(x_BKN)
    for k, offset in enumerate(offsets):
        window = [
            slice(r + o, r + o + n) for r, o, n in zip(reach, offset, x_BKN.shape[2:], strict=True)
        ]
        total = total + weight_BON[:, k : k + 1] * padded[(slice(None), slice(None), *window)]
    return total


def cspn_step(
    x: Tensor, again: Tensor, share: Tensor, affinity: Tensor, offsets: tuple[Offset, ...]
) -> Tensor:
    """One iteration of CSPN; ``share``: one over the sum of affinities, ``again``: what comes
    back from the coarse map."""
    return again + share * near(affinity, x, offsets)


def dyspn_step(
    x: Tensor,
    coarse: Tensor,
    affinity: Tensor,
    pi_BPN: Tensor,
    sums_BRN: Tensor,
    sizes_BRN: Tensor,
    rings: tuple[tuple[Offset, ...], ...],
    eps: float,
) -> Tensor:
    """One iteration of DySPN; ``pi``: centre and rings, ``sums`` and ``sizes``: of the affinities
    per ring, signed and absolute."""
    weights, centre = pi_BPN[:, 1:], pi_BPN[:, :1]
    surplus = (weights * (sizes_BRN - sums_BRN)).sum(1, keepdim=True) + eps
    whole = surplus + centre + (weights * sums_BRN).sum(1, keepdim=True)
    total = centre * x + surplus * coarse
    first = 0
    for r, ring in enumerate(rings):
        part = affinity[:, first : first + len(ring)]
        total = total + weights[:, r : r + 1] * near(part, x, ring)
        first += len(ring)
    return total / whole


class Fused:
    """A function, compiled; where that fails the given other way is taken from then on."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.note = ""
        self._run: Callable[..., Tensor] | None = None
        try:
            self._run = torch.compile(function)
        except Exception as error:  # what a missing back end raises is torch's own affair
            self._give_up(error)

    @property
    def ready(self) -> bool:
        """Whether compiling has not failed so far."""
        return self._run is not None

    def __call__(self, *given: Any) -> Tensor | None:
        """The result, or ``None`` where it could not be compiled; out of memory is raised."""
        if self._run is None:
            return None
        try:
            return self._run(*given)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self._run = None
        first = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
        self.note = (
            f"iterations run uncompiled, as torch.compile failed ({cause[:200]}); "
            "install a C++ compiler or leave compile off"
        )


@cache
def fused(function: Callable[..., Tensor]) -> Fused:
    """The one compiled form of a function in this process: each shape is compiled once."""
    return Fused(function)
