"""Omni-dimensional dynamic convolution (Li, Zhou and Yao, ICLR 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, register_attention
from napari_attnseg.attention.dynamic_conv import (
    Temperature,
    check_kernels,
    conv_each,
    kernels_start,
)
from napari_attnseg.attention.layers import Norm, mean, squeezed


@register_attention(
    "odconv",
    id="A16",
    title="Omni-dimensional convolution",
    paper="Li, Zhou & Yao: Omni-Dimensional Dynamic Convolution (ICLR 2022)",
    kinds=("kernel",),
    ndim=(2, 3),
)
class OmniConv(AttentionModule):
    """K kernels are mixed per image, each weighted along all its axes: in, out and space.

    Formula:
        z = relu(norm(W mean x))
        a_in, a_out, a_sp = sigmoid(heads of z / T), a_K = softmax(head of z / T)
        y = conv(x; a_out * a_in * a_sp * sum_k a_K,k W_k)
    Symbols:
        x: features (B, C, N), y: (B, C_out, N)
        z: (B, m), m = max(16, C / r)
        a_in: (B, C), a_out: (B, C_out), a_sp: one number per place of the kernel, a_K: (B, K)
        W_k: 3 x 3 kernels, no bias; T: temperature
    Cost:
        9 N C C_out + (K + 3) 9 C C_out per image + N C multiply-adds
    Notes:
        With all heads at zero this is a convolution with the mean kernel, divided by 8.
    Args:
        kernels: K
        kernel: side of the kernels, odd
        reduction: r
        least: fewest numbers in the middle
        temperature: T at the start
        anneal: steps of training in which T falls to 1; 0 keeps T
    """

    role: ClassVar[Role] = "conv"
    maps: ClassVar[tuple[str, ...]] = ("kernels", "inputs", "outputs", "places")

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernels: int = 4,
        kernel: int = 3,
        reduction: int = 16,
        least: int = 16,
        temperature: float = 1.0,
        anneal: int = 0,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_kernels(kernels, kernel)
        out, middle = out_channels or channels, squeezed(channels, reduction, least)
        self.squeeze = nn.Sequential(
            nn.Linear(channels, middle, bias=False), Norm(middle), nn.ReLU()
        )
        self.temperature = Temperature(temperature, anneal)
        self.inputs = nn.Linear(middle, channels)
        self.outputs = nn.Linear(middle, out)
        self.sites = nn.Linear(middle, kernel**ndim)
        self.kernels = nn.Linear(middle, kernels)
        self.weight = nn.Parameter(torch.empty(kernels, out, channels, *(kernel,) * ndim))
        kernels_start(self.weight)

    def parts(self, x_BCN: Tensor) -> dict[str, Tensor]:
        """a_K, a_in, a_out and a_sp by the names of the maps, each (B, n)."""
        z = self.squeeze(mean(x_BCN))
        heads = (self.kernels, self.inputs, self.outputs, self.sites)
        scores = self.temperature(torch.cat([head(z) for head in heads], 1))
        k, i, o, p = scores.split([head.out_features for head in heads], 1)
        return {
            "kernels": torch.softmax(k, 1),
            "inputs": torch.sigmoid(i),
            "outputs": torch.sigmoid(o),
            "places": torch.sigmoid(p),
        }

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to (B, C_out, N)."""
        a = self.parts(x_BCN)
        if self.probe is not None:
            for name, values in a.items():
                self.probe.note(name, values, "kernel")
        kernels = torch.tensordot(a["kernels"].to(self.weight.dtype), self.weight, 1)
        spread = (1,) * (x_BCN.ndim - 2)
        kernels = kernels * a["outputs"].reshape(*a["outputs"].shape, 1, *spread)
        kernels = kernels * a["inputs"].reshape(len(x_BCN), 1, -1, *spread)
        kernels = kernels * a["places"].reshape(len(x_BCN), 1, 1, *self.weight.shape[3:])
        return conv_each(x_BCN, kernels)
