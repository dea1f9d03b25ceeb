"""Efficient channel attention (Wang et al., CVPR 2020)."""

from __future__ import annotations

from math import log2
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Gating, mean, over
from napari_attnseg.errors import InputError


def eca_kernel(channels: int) -> int:
    """The odd kernel size for C channels, from ``(log2 C + 1) / 2`` (equation 12): 3 for 8 to 64
    channels, 5 for 128 to 1024."""
    size = int(abs(log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


@register_attention(
    "eca",
    id="A02",
    title="Efficient channel attention",
    paper="Wang et al.: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural "
    "Networks (CVPR 2020)",
    kinds=("channel",),
    ndim=(2, 3),
)
class EfficientChannel(Gating):
    """One weight per channel, made from the means of its neighbouring channels alone.

    Formula:
        z = mean of x over all positions
        s = sigmoid(conv1d_k(z)), along the channels, zeros beyond the first and last
        y = x * s
    Symbols:
        x, y: features (B, C, H, W) or (B, C, D, H, W)
        z, s: one number per channel (B, C)
        k: odd; from C by k = (log2 C + 1) / 2, rounded down, then up to an odd number
    Cost:
        N C + k C multiply-adds; k weights
    Notes:
        One kernel for all channels, without bias. Which channels are neighbours is by chance; the
        network learns to make use of it.
    Args:
        kernel: k, an odd number (None: from the number of channels)
    """

    maps: ClassVar[tuple[str, ...]] = ("channels",)

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        super().__init__()
        k = eca_kernel(channels) if kernel is None else kernel
        if k < 1 or k % 2 == 0:
            raise InputError(f"got kernel={kernel}, expected an odd number")
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def weights(self, x_BCN: Tensor) -> Tensor:
        s = torch.sigmoid(self.conv(mean(x_BCN).unsqueeze(1))).squeeze(1)
        return self.shown("channels", over(s, x_BCN))
