"""Spatial propagation of features: CSPN and DySPN as an attention module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.layers import conv
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.refinement import create_refinement

MODES = ("cspn", "dyspn")


@register_attention(
    "spatial_propagation",
    id="A37",
    title="Spatial propagation",
    paper="Cheng, Wang & Yang: Depth Estimation via Affinity Learned with Convolutional Spatial "
    "Propagation Network (ECCV 2018); Lin et al.: Dynamic Spatial Propagation Network (AAAI 2022)",
    kinds=("propagation", "spatial"),
    ndim=(2, 3),
)
class SpatialPropagation(AttentionModule):
    """Every position hands its features on to its neighbours, several times, as far as they agree.

    Formula:
        a = conv3(x), k_o = a_o / sum_o |a_o|
        h_0 = x, h_(t+1)(p) = sum_o k_o(p) h_t(p + o) + (1 - sum_o k_o(p)) x(p)
        y = h_T
    Symbols:
        x, y: features (B, C, N)
        a: one map per neighbour o, 8 in a 3 x 3 neighbourhood (26 in volumes)
        k: affinity, the same for all channels and steps
    Cost:
        9 N C 8 + T 8 N C multiply-adds; maps of 8 N numbers per step
    Notes:
        The operators are those that refine coarse segmentations (see refinement). mode "dyspn"
        also weighs the rings of a wider neighbourhood anew in every step, by sigmoid(conv3(x)).
        The affinity of a fresh module is random, so it is not the identity.
    Args:
        mode: "cspn" or "dyspn"
        iterations: T
        kernel: side of the neighbourhood, odd (None: 3 for cspn, 5 for dyspn)
    """

    maps: ClassVar[tuple[str, ...]] = ("affinity", "rings", "step")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}
    structure: ClassVar[Structure] = "banded"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        mode: str = "cspn",
        iterations: int = 3,
        kernel: int | None = None,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        side = (3 if self.checked("mode", mode) == "cspn" else 5) if kernel is None else kernel
        self.refinement = create_refinement(mode, iterations=iterations, kernel=side, ndim=ndim)
        self.affinity = conv(ndim, channels, self.refinement.channels, 3)
        self.parts = (iterations, len(self.refinement.rings) + 1)
        rings = self.parts[0] * self.parts[1]
        self.rings = conv(ndim, channels, rings, 3) if mode == "dyspn" else None

    @property
    def reach(self) -> int:
        return self.refinement.iterations * self.refinement.reach

    def steering(self, x_BCN: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw affinity (B, neighbours, N), and the weights of rings (B, T, parts, N) of dyspn."""
        if self.rings is None:
            return self.affinity(x_BCN), None
        return self.affinity(x_BCN), torch.sigmoid(self.rings(x_BCN)).unflatten(1, self.parts)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to the same."""
        affinity, rings = self.steering(x_BCN)
        if self.probe is not None:
            self._show(affinity, rings)
        y, last = x_BCN, x_BCN
        for step, y in enumerate(self.refinement.steps(x_BCN, affinity, rings)):
            if self.probe is not None:
                moved = (y - last).abs().mean(1)
                self.probe.note("step", moved, "spatial", Geometry(x_BCN.ndim - 2), step=step + 1)
                last = y.clone()
        return y

    def _show(self, affinity: Tensor, rings: Tensor | None) -> None:
        assert self.probe is not None
        where = Geometry(affinity.ndim - 2)
        words = tuple(str(o) for o in self.refinement.offsets)
        share = affinity / affinity.abs().sum(1, keepdim=True).clamp(min=1e-8)
        self.probe.note("affinity", share, "propagation", where, labels=words)
        for step in range(0 if rings is None else rings.shape[1]):
            assert rings is not None
            self.probe.note("rings", rings[:, step], "propagation", where, step=step + 1)

    def operator(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        affinity, rings = self.steering(x)
        n = x[0, 0].numel()
        points = torch.eye(n, dtype=x.dtype, device=x.device).view(1, n, *x.shape[2:])
        spread = points.expand(len(x), -1, *x.shape[2:])
        *_, last = self.refinement.steps(spread, affinity, rings)
        return last.flatten(2).mT.unsqueeze(1)
