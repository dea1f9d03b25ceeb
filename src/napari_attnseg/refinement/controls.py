"""What an experiment compares refinements with. Neither propagates anything.

They share the guidance network with CSPN and DySPN, so that the difference to those is the
propagation alone.
"""

from __future__ import annotations

from torch import Tensor

from napari_attnseg.refinement.base import Advance, Refinement
from napari_attnseg.refinement.registry import register_refinement


@register_refinement("none", control=True)
class Residual(Refinement):
    """A plain second U-Net: the guidance network's output is added to the coarse logits.

    ``maps``: the number K of maps; the "affinity" is a residual (B, K, N). Every iterate is the
    same, ``H_0 + residual``.
    """

    @property
    def channels(self) -> int:
        return self.maps

    @property
    def reach(self) -> int:
        return 0

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        return lambda x, t: coarse + affinity


@register_refinement("off", control=True)
class Still(Refinement):
    """CSPN with its propagation switched off: every weight stands on the pixel itself, and as all
    weights sum to 1 the coarse map stays. What is left is the coarse model, trained on."""

    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        return lambda x, t: coarse.clone()
