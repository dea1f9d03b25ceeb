"""Dynamic convolution (Chen et al., CVPR 2020), and what kernels made per image share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, Role, register_attention
from napari_attnseg.attention.layers import Bottleneck, mean
from napari_attnseg.errors import InputError

CONVS = {2: F.conv2d, 3: F.conv3d}


def conv_each(x_BCN: Tensor, kernels: Tensor, biases_BO: Tensor | None = None) -> Tensor:
    """A kernel of its own for every item: (B, C, N) with (B, O, C, k ...) to (B, O, N); the size is
    kept. One convolution in B groups."""
    batch, out = kernels.shape[:2]
    ndim = x_BCN.ndim - 2
    bias = None if biases_BO is None else biases_BO.flatten()
    y = CONVS[ndim](
        x_BCN.reshape(1, -1, *x_BCN.shape[2:]),
        kernels.flatten(0, 1),
        bias,
        padding=kernels.shape[-1] // 2,
        groups=batch,
    )
    return y.reshape(batch, out, *x_BCN.shape[2:])


class Temperature(nn.Module):
    """What scores are divided by: from ``start`` down to 1 in a straight line over ``steps``
    forwards in training mode (0: ``start`` for ever). The count lies in the checkpoint."""

    count: Tensor

    def __init__(self, start: float, steps: int) -> None:
        super().__init__()
        if not (start > 0 and steps >= 0):
            raise InputError(f"got temperature={start}, steps={steps}, expected above 0, 0 or more")
        self.start, self.steps = start, steps
        self.register_buffer("count", torch.zeros(()))

    def forward(self, scores: Tensor) -> Tensor:
        if self.steps == 0:
            return scores / self.start
        done = (self.count / self.steps).clamp(max=1)
        if self.training:
            self.count.add_(1)
        return scores / (self.start + (1 - self.start) * done).to(scores.dtype)


def kernels_start(weight_KOC: Tensor) -> None:
    """Every one of K kernels as a convolution's own would start."""
    for kernel in weight_KOC:
        nn.init.kaiming_uniform_(kernel, a=5**0.5)


@register_attention(
    "dynamic_conv",
    id="A15",
    title="Dynamic convolution",
    paper="Chen et al.: Dynamic Convolution: Attention over Convolution Kernels (CVPR 2020)",
    kinds=("kernel",),
    ndim=(2, 3),
)
class DynamicConv(AttentionModule):
    """K kernels are mixed into one for every image; the image itself says how.

    Formula:
        pi = softmax(W2 relu(W1 mean x) / T)
        y = conv(x; sum_k pi_k K_k, sum_k pi_k b_k)
    Symbols:
        x: features (B, C, N), y: (B, C_out, N)
        pi: weights of the kernels (B, K), sum to 1
        K_k, b_k: 3 x 3 kernels and biases
        T: temperature
    Cost:
        9 N C C_out + K 9 C C_out per image + N C + C^2 / r multiply-adds
    Notes:
        T falls from its start to 1 over the first steps of training, so that all kernels learn
        before the choice sharpens; the paper takes ten epochs, here it is counted in steps.
    Args:
        kernels: K
        kernel: side of the kernels, odd
        reduction: r
        temperature: T at the start
        anneal: steps of training in which T falls to 1; 0 keeps T
    """

    role: ClassVar[Role] = "conv"
    maps: ClassVar[tuple[str, ...]] = ("kernels",)

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernels: int = 4,
        kernel: int = 3,
        reduction: int = 4,
        temperature: float = 30.0,
        anneal: int = 1000,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_kernels(kernels, kernel)
        out = out_channels or channels
        self.mlp = Bottleneck(channels, reduction, outside=kernels)
        self.temperature = Temperature(temperature, anneal)
        self.weight = nn.Parameter(torch.empty(kernels, out, channels, *(kernel,) * ndim))
        self.bias = nn.Parameter(torch.zeros(kernels, out))
        kernels_start(self.weight)

    def shares(self, x_BCN: Tensor) -> Tensor:
        """pi: (B, K)."""
        return torch.softmax(self.temperature(self.mlp(mean(x_BCN))), 1)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to (B, C_out, N)."""
        pi_BK = self.shares(x_BCN)
        if self.probe is not None:
            labels = tuple(f"kernel {k + 1}" for k in range(pi_BK.shape[1]))
            self.probe.note("kernels", pi_BK, "kernel", labels=labels)
        pi_BK = pi_BK.to(self.weight.dtype)  # scores may come in half precision
        kernels = torch.tensordot(pi_BK, self.weight, 1)
        return conv_each(x_BCN, kernels, pi_BK @ self.bias)


def check_kernels(kernels: int, kernel: int) -> None:
    """Refuse a number of kernels below 1 and sides that are not odd."""
    if kernels < 1 or kernel < 1 or kernel % 2 == 0:
        raise InputError(
            f"got kernels={kernels} of side kernel={kernel}, expected 1 or more of an odd side"
        )
