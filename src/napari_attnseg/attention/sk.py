"""Selective kernels (Li et al., CVPR 2019)."""

from __future__ import annotations

from math import gcd
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, register_attention
from napari_attnseg.attention.layers import Norm, conv, mean, over
from napari_attnseg.errors import InputError


@register_attention(
    "sk",
    id="A03",
    title="Selective kernel",
    paper="Li, Wang, Hu & Yang: Selective Kernel Networks (CVPR 2019)",
    kinds=("branch",),
    ndim=(2, 3),
)
class SelectiveKernel(AttentionModule):
    """Several kernel sizes side by side; every channel chooses among them by the whole image.

    Formula:
        U_m = relu(norm(conv_m(x))), m = 1 ... M
        z = relu(norm(F mean(sum_m U_m)))
        a = softmax over m of F_m z, for every channel
        y = sum_m a_m * U_m
    Symbols:
        x: features (B, C, N), y: (B, C_out, N)
        conv_m: 3 x 3 with dilation m, in G groups (m = 2 covers 5 x 5)
        z: (B, d), d = max(C_out / r, L)
        a: weights of branches (B, M, C_out)
    Cost:
        9 M N C C_out / G + 2 M N C_out + (1 + M) d C_out multiply-adds (27 for 9 in volumes)
    Notes:
        The whole input goes through every branch, as in the paper (one library splits it by
        default). Where C is no multiple of G, the largest common divisor is taken.
    Args:
        branches: M
        reduction: r
        least: L, fewest numbers in the middle
        groups: G of the convolutions
    """

    role: ClassVar[Role] = "conv"
    maps: ClassVar[tuple[str, ...]] = ("branches",)

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        branches: int = 2,
        reduction: int = 16,
        least: int = 32,
        groups: int = 32,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if branches < 2:
            raise InputError(f"got branches={branches}, expected at least 2")
        out = out_channels or channels
        g, middle = gcd(groups, channels, out), max(out // reduction, least)
        self.branches = nn.ModuleList(
            nn.Sequential(
                conv(ndim, channels, out, 3, dilation=m + 1, groups=g, bias=False),
                Norm(out),
                nn.ReLU(),
            )
            for m in range(branches)
        )
        self.squeeze = nn.Sequential(nn.Linear(out, middle, bias=False), Norm(middle), nn.ReLU())
        self.select = nn.Linear(middle, branches * out, bias=False)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to (B, C_out, N)."""
        made = torch.stack([branch(x_BCN) for branch in self.branches], 1)
        scores = self.select(self.squeeze(mean(made.sum(1)))).unflatten(1, made.shape[1:3])
        a_BMC = torch.softmax(scores, 1)
        if self.probe is not None:
            labels = tuple(f"{2 * m + 3} x {2 * m + 3}" for m in range(made.shape[1]))
            self.probe.note("branches", a_BMC, "branch", labels=labels)
        return (made * over(a_BMC, x_BCN)).sum(1)
