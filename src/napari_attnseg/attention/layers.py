"""Layers for two and three spatial axes, and the form of all gates.

Legend: N stands for the spatial axes, (H, W) or (D, H, W).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.module import AttentionModule, Structure
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

POOLS = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def conv(ndim: int, inside: int, outside: int, kernel: int = 1, **options: Any) -> nn.Module:
    """A convolution over ``ndim`` axes that keeps the size (odd kernels, at stride 1)."""
    made = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    options = {"padding": options.get("dilation", 1) * (kernel // 2), **options}
    return made(inside, outside, kernel, **options)


class Norm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of (B, C) or (B, C, N) with any number of axes; where a batch holds one
    value per channel (pooled maps of a single image) it takes its running statistics.

    A single item is brought into the usual memory order, and so is its gradient: for one item whose
    channels lie together the library's backward pass on a CPU pairs the wrong numbers.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"got {input.ndim} axes, expected at least 2")

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if input.shape[0] > 1:
            out: Tensor = super().forward(input)
            return out
        out = super().forward(input.contiguous())
        if out.requires_grad:
            out.register_hook(_in_order)
        return out


def _in_order(grad: Tensor) -> Tensor:
    return grad.contiguous()


def squeezed(channels: int, reduction: int, least: int = 1) -> int:
    """Channels in the middle of a bottleneck; raises ``InputError`` for a reduction below 1."""
    if reduction < 1:
        raise InputError(f"got reduction={reduction}, expected 1 or more")
    return max(least, channels // reduction)


def space(x_BCN: Tensor) -> tuple[int, ...]:
    """The spatial axes of a tensor (not their sizes)."""
    return tuple(range(2, x_BCN.ndim))


def mean(x_BCN: Tensor) -> Tensor:
    """Global average pooling: (B, C)."""
    return x_BCN.mean(space(x_BCN))


def largest(x_BCN: Tensor) -> Tensor:
    """Global maximum pooling: (B, C)."""
    return x_BCN.amax(space(x_BCN))


def over(weights_BC: Tensor, like_BCN: Tensor) -> Tensor:
    """(B, C) with as many axes of size 1 as ``like`` has spatial ones."""
    return weights_BC.reshape(*weights_BC.shape, *(1,) * (like_BCN.ndim - 2))


def pooled(x_BCN: Tensor, grid: Sequence[int]) -> Tensor:
    """Mean over the cells of a coarser (or finer) grid: (B, C, grid)."""
    return POOLS[x_BCN.ndim - 2](x_BCN, tuple(grid))


def resized(x_BCN: Tensor, size: Sequence[int], smooth: bool = True) -> Tensor:
    """Brought to another grid, linearly or by the nearest position; itself on the same grid."""
    if tuple(x_BCN.shape[2:]) == tuple(size):
        return x_BCN
    if not smooth:
        return F.interpolate(x_BCN, tuple(size), mode="nearest")
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x_BCN.ndim]
    return F.interpolate(x_BCN, tuple(size), mode=mode, align_corners=False)


class Bottleneck(nn.Sequential):
    """``W2 relu(W1 z)`` of pooled values (B, C), r times fewer in the middle."""

    def __init__(
        self, channels: int, reduction: int, bias: bool = True, outside: int | None = None
    ) -> None:
        middle = squeezed(channels, reduction)
        super().__init__(
            nn.Linear(channels, middle, bias=bias),
            nn.ReLU(),
            nn.Linear(middle, outside or channels, bias=bias),
        )


class Gating(AttentionModule):
    """A refiner ``y = x * weights(x)``; as an operator over positions it is diagonal."""

    structure: ClassVar[Structure] = "diagonal"

    @abstractmethod
    def weights(self, x_BCN: Tensor) -> Tensor:
        """What x is multiplied by; broadcasts to x. Shows itself where somebody records."""

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to the same."""
        return x_BCN * self.weights(x_BCN)

    def heads(self, channels: int) -> int:
        return channels

    def operator(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return torch.diag_embed(self.weights(x).expand_as(x).flatten(2))

    def shown(self, name: str, weights: Tensor, size: Sequence[int] = ()) -> Tensor:
        """The weights themselves, noted as a map over an input of ``size`` or, without it, as one
        number per channel."""
        if self.probe is not None:
            if size:
                flat = weights.squeeze(1) if weights.shape[1] == 1 else weights
                self.probe.note(name, flat, "spatial", Geometry.over(size, weights.shape[2:]))
            else:
                self.probe.note(name, weights.flatten(1), "channel")
        return weights


class Strengthened(AttentionModule):
    """``x + strength * (attended(x) - x)``, and just ``attended(x)`` at strength 1."""

    def forward(self, x_BCN: Tensor, strength: float = 1.0) -> Tensor:
        """(B, C, N) to the same; ``strength`` in [0, 1]."""
        if strength == 0 and self.probe is None:
            return x_BCN
        y = self.attended(x_BCN)
        return y if strength == 1 else torch.lerp(x_BCN, y, strength)

    @abstractmethod
    def attended(self, x_BCN: Tensor) -> Tensor:
        """The paper's module."""

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        return (Tunable("strength", "float", 1.0, "gate", STRENGTH_DOC),)


STRENGTH_DOC = (
    "How much of what the attention changes is let through: 0 leaves the features as they came, "
    "1 is as trained."
)
