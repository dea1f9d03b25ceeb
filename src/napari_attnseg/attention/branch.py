"""Branch attention, and the Autofocus layer (Qin et al., MICCAI 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, register_attention
from napari_attnseg.attention.dynamic_conv import CONVS
from napari_attnseg.attention.layers import Norm, conv, squeezed
from napari_attnseg.errors import InputError

MODES = ("branches", "autofocus")
DILATIONS = {"branches": (1, 2, 3, 4), "autofocus": (2, 6, 10, 14)}


def parse_dilations(text: str, mode: str) -> tuple[int, ...]:
    """``"1,2,4"`` to numbers; empty: those of the mode."""
    try:
        found = tuple(int(word) for word in text.split(",")) if text else DILATIONS[mode]
    except ValueError:
        found = ()
    if len(found) < 2 or min(found) < 1:
        raise InputError(f"got dilations={text!r}, expected at least two numbers like '1,2,4'")
    return found


@register_attention(
    "branch",
    id="A14",
    title="Branch attention",
    paper="Branch attention over multi-scale features; with shared weights the Autofocus layer: "
    "Qin et al.: Autofocus Layer for Semantic Segmentation (MICCAI 2018)",
    kinds=("branch",),
    ndim=(2, 3),
)
class BranchAttention(AttentionModule):
    """Convolutions of several dilations side by side; every position chooses among them.

    Formula:
        A = softmax over n of score(x)
        F_n = relu(norm_n(conv_n(x)))
        y = sum_n A_n * F_n
    Symbols:
        x: features (B, C, N), y: (B, C_out, N)
        conv_n: 3 x 3 with the n-th dilation
        score: convolution C to C / 2, ReLU, convolution to one map per branch; 1 x 1 then 3 x 3
        A: weights of branches (B, n, N), sum to 1 at every position
    Cost:
        9 n N C C_out + about N C^2 / 2 multiply-adds; the map has n N numbers
    Notes:
        mode "autofocus": one set of convolution weights for all dilations, with a normalisation of
        each branch's own, scores by 3 x 3 then 1 x 1 of the input cut off from its gradient, as
        published (the scores teach nothing to the layers before). The size of the second kernel of
        the scores is illegible in the survey that gives the formula; 3 x 3 is our reading.
    Args:
        mode: "branches" (own weights) or "autofocus" (shared weights)
        dilations: numbers with commas (empty: 1,2,3,4 or, in autofocus, 2,6,10,14)
    """

    role: ClassVar[Role] = "conv"
    maps: ClassVar[tuple[str, ...]] = ("branches",)
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        mode: str = "branches",
        dilations: str = "",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.detached = self.checked("mode", mode) == "autofocus"
        self.dilations = parse_dilations(dilations, mode)
        out, count = out_channels or channels, len(self.dilations)
        own = 1 if self.detached else count  # sets of weights
        self.convs = nn.ModuleList(conv(ndim, channels, out, 3, bias=False) for _ in range(own))
        self.norms = nn.ModuleList(Norm(out) for _ in self.dilations)
        middle = squeezed(channels, 2)
        first, second = (3, 1) if self.detached else (1, 3)
        self.score = nn.Sequential(
            conv(ndim, channels, middle, first), nn.ReLU(), conv(ndim, middle, count, second)
        )

    def weights(self, x_BCN: Tensor) -> Tensor:
        """A: (B, n, N)."""
        return torch.softmax(self.score(x_BCN.detach() if self.detached else x_BCN), 1)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to (B, C_out, N)."""
        a_BnN = self.weights(x_BCN)
        if self.probe is not None:
            labels = tuple(f"dilation {d}" for d in self.dilations)
            self.probe.note("branches", a_BnN, "branch", labels=labels)
        weights = a_BnN.split(1, 1)
        total = torch.zeros_like(weights[0])
        for a, f in zip(weights, self.branches(x_BCN), strict=True):
            total = total + a * f
        return total

    def branches(self, x_BCN: Tensor) -> Iterator[Tensor]:
        """F_n of every branch: (B, C_out, N)."""
        convolve = CONVS[x_BCN.ndim - 2]
        weights = [layer.weight for layer in self.convs] * (len(self.norms) // len(self.convs))
        for w, norm, d in zip(weights, self.norms, self.dilations, strict=True):
            yield torch.relu(norm(convolve(x_BCN, w, padding=d, dilation=d)))
