"""Point-wise attention (Joint Attention, equations 2 to 4): one weight per position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import Structure, register_attention
from napari_attnseg.attention.layers import Strengthened, conv
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError

SIGMAS = ("sigmoid", "none")


class PointWiseMap(nn.Module):
    """``w(x) = sigma(conv(x))``: (B, C, N) to (B, 1, N); 9 C + 1 parameters with a 3x3 kernel.

    ``sigma="none"`` is the paper's analysis (equation 2); a sigmoid, the default, is what
    point-wise attention in the works it cites has.
    """

    def __init__(
        self, channels: int, sigma: str = "sigmoid", kernel: int = 3, ndim: int = 2
    ) -> None:
        super().__init__()
        if sigma not in SIGMAS:
            raise InputError(f"got sigma {sigma!r}, expected {' or '.join(SIGMAS)}")
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"got kernel={kernel}, expected an odd number")
        self.sigma = sigma
        self.conv = conv(ndim, channels, 1, kernel)

    def forward(self, x_BCN: Tensor) -> Tensor:
        w: Tensor = self.conv(x_BCN)
        return torch.sigmoid(w) if self.sigma == "sigmoid" else w

    def extra_repr(self) -> str:
        return f"sigma={self.sigma!r}"


@register_attention(
    "pointwise",
    id="A08",
    title="Point-wise attention",
    paper="Joint Attention for Medical Image Segmentation, equations 2 to 4",
    kinds=("spatial", "signed"),
    ndim=(2, 3),
)
class PointWiseAttention(Strengthened):
    """Every position is multiplied by one weight, read off its neighbourhood.

    Formula:
        w = sigma(conv3(x))
        y = x * w
    Symbols:
        x, y: features (B, C, N)
        conv3: 3 x 3 convolution to one map, with a bias
        w: one number per position (B, 1, N)
    Cost:
        9 N C multiply-adds; 9 C + 1 weights; the map has N numbers
    Notes:
        The paper's equations have neither bias nor sigmoid (sigma="none"); the works it cites have
        a sigmoid, which is the default here.
    Args:
        sigma: "sigmoid" or "none"
        kernel: side of the kernel, odd
    """

    maps: ClassVar[tuple[str, ...]] = ("pointwise",)
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"sigma": SIGMAS}
    structure: ClassVar[Structure] = "diagonal"

    def __init__(
        self, channels: int, sigma: str = "sigmoid", kernel: int = 3, ndim: int = 2
    ) -> None:
        super().__init__()
        self.w = PointWiseMap(channels, sigma, kernel, ndim)

    def attended(self, x_BCN: Tensor) -> Tensor:
        return x_BCN * noted(self, self.w(x_BCN), self.w.sigma)

    def operator(self, *inputs: Tensor) -> Tensor:
        return torch.diag_embed(self.w(inputs[0]).flatten(2))


def noted(module: Strengthened, w_B1N: Tensor, sigma: str) -> Tensor:
    """The map itself, shown where somebody records."""
    if module.probe is not None:
        where = Geometry(w_B1N.ndim - 2)
        kind = "spatial" if sigma == "sigmoid" else "signed"
        module.probe.note("pointwise", w_B1N.squeeze(1), kind, where)  # type: ignore[arg-type]
    return w_B1N
