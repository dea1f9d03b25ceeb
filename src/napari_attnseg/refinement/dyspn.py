"""Dynamic spatial propagation (Lin et al. 2022): CSPN whose rings are weighted anew every step.

Neighbours stand in rings r = 1, 2, 3 (8, 16, 24 of them for a 7x7 kernel); attention
``pi_{t,r}`` in [0, 1] weighs ring r (``r = 0``: the pixel itself) in iteration t. The affinity
``a`` is shared by all iterations, the attention is not. With neighbours outside left out:

- ``S = sum_r pi_r sum_{ring r} a + pi_0``
- ``Z = sum_r pi_r sum_{ring r} |a| + pi_0 + eps``
- ``H_{t+1} = [sum_r pi_r sum_{ring r} a H_t(p + o) + pi_0 H_t(p) + (Z - S) H_0(p)] / Z``

``eps`` stands in numerator and denominator, so constant maps are kept exactly and ``pi = 0``
gives ``H_0`` back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.base import Advance, Refinement
from napari_attnseg.refinement.fused import dyspn_step
from napari_attnseg.refinement.registry import register_refinement
from napari_attnseg.refinement.stencil import add_neighbours, neighbour_sum, weight_sum

Ring = tuple[tuple[int, ...], ...]
Rings = list[Tensor]


@register_refinement("dyspn")
class DySPN(Refinement):
    """See the module. ``common``: the options of :class:`Refinement`.

    ``attention`` of :meth:`steps`: (B, T, 1 + rings, N) in the order centre, ring 1, ring 2,
    ring 3; each in [0, 1] (a sigmoid of the guidance network's output).
    """

    default_kernel = 7
    needs_attention = True
    step = staticmethod(dyspn_step)

    def __init__(self, iterations: int = 6, eps: float = 1e-4, **common: Any) -> None:
        super().__init__(iterations, **common)
        self.eps = eps

    def _check(self, logits: Tensor, affinity: Tensor, attention: Tensor | None) -> None:
        super()._check(logits, affinity, attention)
        assert attention is not None
        shape = logits.shape
        expected = (shape[0], self.iterations, len(self.rings) + 1, *shape[2:])
        if tuple(attention.shape) != expected:
            raise InputError(f"got attention {tuple(attention.shape)}, expected {expected}")

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        assert attention is not None
        parts, sums, sizes = self._by_ring(affinity)

        def advance(x: Tensor, t: int) -> Tensor:
            centre, *weights = attention[:, t].split(1, 1)
            surplus = sum((w * (z - s) for w, z, s in zip(weights, sizes, sums, strict=True)))
            surplus = surplus + self.eps
            whole = surplus + centre + sum(w * s for w, s in zip(weights, sums, strict=True))
            total = centre * x + surplus * coarse
            for weight, (a, ring) in zip(weights, parts, strict=True):
                total = self._add(total, weight, a, x, ring)
            return total / whole if torch.is_grad_enabled() else total.div_(whole)

        stacked = (torch.cat(sums, 1), torch.cat(sizes, 1)) if self.compile else ()

        def given(x: Tensor, t: int) -> tuple[Any, ...]:
            return x, coarse, affinity, attention[:, t], *stacked, self.rings, self.eps

        return self._compiled(advance, given, coarse)

    def _by_ring(self, affinity: Tensor) -> tuple[list[tuple[Tensor, Ring]], Rings, Rings]:
        """Affinity and offsets of every ring, their sums, and the sums of their sizes."""
        split = affinity.split([len(ring) for ring in self.rings], 1)
        parts = list(zip(split, self.rings, strict=True))
        sums = [weight_sum(a, ring) for a, ring in parts]
        return parts, sums, [weight_sum(a, ring, absolute=True) for a, ring in parts]

    @staticmethod
    def _add(total: Tensor, weight: Tensor, a: Tensor, x: Tensor, ring: Ring) -> Tensor:
        if torch.is_grad_enabled():
            return total + weight * neighbour_sum(a, x, ring)
        return total.addcmul_(weight, add_neighbours(torch.zeros_like(x), a, x, ring))
