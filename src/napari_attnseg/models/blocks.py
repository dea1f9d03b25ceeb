"""Parts that models share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.errors import InputError


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width multiplier, at least 4."""
    if not width > 0:
        raise InputError(f"got width={width}, expected a number above 0 (1.0 is the full net)")
    return max(4, round(channels * width))


CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


def convolution(ndim: int) -> type[nn.Module]:
    """The convolution over two or three spatial axes."""
    return nn.Conv3d if ndim == 3 else nn.Conv2d


def he_start(model: nn.Module, mode: str = "fan_in") -> None:
    """He et al.'s initialisation of all convolutions, biases 0 (ICCV 2015): a deviation of
    sqrt(2 / N) with N incoming values (``fan_in``, as the U-Net paper) or outgoing ones."""
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class CellDecoder(nn.Module):
    """Transposed convolutions with kernel 2 and stride 2, ReLU between them, none at the end.

    Every layer doubles the size and no two output pixels share an input pixel's neighbours, so
    each position of the input alone decides a square of ``cell`` = 2^layers output pixels.
    (B, channels[0], h, w) to (B, channels[-1], h * cell, w * cell).
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in pairwise(channels):
            layers += [nn.ConvTranspose2d(inside, outside, 2, 2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.cell = 2 ** (len(channels) - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvNormReLU(nn.Sequential):
    """A convolution that keeps the size at stride 1, batch normalisation and ReLU.

    ``norm=False``: the convolution has a bias instead of the normalisation.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        norm: bool = True,
        ndim: int = 2,
    ) -> None:
        padding = dilation * (kernel // 2)
        layers: list[nn.Module] = [
            convolution(ndim)(inside, outside, kernel, stride, padding, dilation, bias=not norm)
        ]
        if norm:
            layers.append((nn.BatchNorm3d if ndim == 3 else nn.BatchNorm2d)(outside))
        super().__init__(*layers, nn.ReLU(inplace=True))


class TwoConvs(nn.Sequential):
    """Two :class:`ConvNormReLU` with kernels of 3 along each axis, the step of a U-Net."""

    def __init__(self, inside: int, outside: int, norm: bool = True, ndim: int = 2) -> None:
        super().__init__(
            ConvNormReLU(inside, outside, norm=norm, ndim=ndim),
            ConvNormReLU(outside, outside, norm=norm, ndim=ndim),
        )


class UpConv(nn.Sequential):
    """Nearest-neighbour doubling and a 3x3 :class:`ConvNormReLU`."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(nn.Upsample(scale_factor=2), ConvNormReLU(inside, outside))


class Separable(nn.Sequential):
    """Depthwise k x k and pointwise 1x1 convolution, batch normalisation and ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(
                inside,
                inside,
                kernel,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=inside,
                bias=False,
            ),
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class PooledNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics where a batch holds one value per
    channel (a pooled map of a single image), which has no variance of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, corners as pixel areas; the same tensor when it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
