"""Convolutional spatial propagation (Cheng, Wang and Yang 2018; TPAMI 2019 form).

With raw affinity ``a_k(p)`` for the neighbours p + o_k, those outside the image left out:

- ``kappa_k = a_k / (sum_k |a_k| + eps)``
- ``H_{t+1}(p) = sum_k kappa_k(p) H_t(p + o_k) + (1 - sum_k kappa_k(p)) H_0(p)``

The residual weight stands on the *initial* map ``H_0``. Weights are indexed by destination, as
the paper prints them (the released code indexes by source: see ``official``). Constant maps are
kept exactly; ``a = 0`` is the identity (``eps`` keeps 0/0 away).

``norm="8sum"`` (the paper's default) keeps the sign of the affinity; ``"8sum_abs"`` takes its
absolute value, which makes the weights sum to 1: pure diffusion that forgets ``H_0``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.base import Advance, Refinement
from napari_attnseg.refinement.fused import cspn_step
from napari_attnseg.refinement.registry import register_refinement
from napari_attnseg.refinement.stencil import add_neighbours, neighbour_sum, weight_sum

NORMS = ("8sum", "8sum_abs")


@register_refinement("cspn")
class CSPN(Refinement):
    """See the module. ``eps``: added to the sum of absolute affinities; ``common``: the options
    of :class:`Refinement`."""

    best_side = 256  # all maps of such a tile stay in the processor's cache over all iterations
    step = staticmethod(cspn_step)

    def __init__(
        self, iterations: int = 6, norm: str = "8sum", eps: float = 1e-8, **common: Any
    ) -> None:
        super().__init__(iterations, **common)
        if norm not in NORMS:
            raise InputError(f"got norm={norm!r}, expected {' or '.join(NORMS)}")
        self.norm, self.eps = norm, eps

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        offsets = self.offsets
        if self.norm == "8sum_abs":
            affinity = affinity.abs()
        share = 1 / (weight_sum(affinity, offsets, absolute=True) + self.eps)
        again = (1 - weight_sum(affinity, offsets) * share) * coarse

        def advance(x: Tensor, t: int) -> Tensor:
            if torch.is_grad_enabled():
                return again + share * neighbour_sum(affinity, x, offsets)
            out = add_neighbours(torch.zeros_like(x), affinity, x, offsets)
            return out.mul_(share).add_(again)

        return self._compiled(advance, lambda x, t: (x, again, share, affinity, offsets), coarse)
