"""ResNet-18, -34 and -50 (He et al., CVPR 2016) with the parameter names of published weights.

Written from the paper; names and order equal those of the usual PyTorch state dicts, so that
ImageNet weights load. As in these, the stride of a bottleneck block lies in its 3x3 convolution
(the paper has it in the first 1x1).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.blocks import he_start, scaled
from napari_attnseg.models.encoder_base import Encoder, Published

STAGES = {8: 2, 16: 3, 32: 4}
"""Encoder stride to number of residual stages."""
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth to residual blocks per stage (table 1 of the paper)."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))``."""

    expansion = 1

    def __init__(self, inside: int, middle: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, middle, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(middle, middle, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.downsample = _shortcut(inside, middle, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the last has four times the channels."""

    expansion = 4

    def __init__(self, inside: int, middle: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        outside = middle * self.expansion
        self.conv1 = nn.Conv2d(inside, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module | None:
    if stride == 1 and inside == outside:
        return None
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(Encoder):
    """Features after the stem (stride 2) and after each stage (4, 8, 16, 32).

    ``depth`` 18, 34 or 50. ``width`` multiplies every layer's channels. ``stride`` 16 drops
    ``layer4``, 8 drops ``layer3`` as well. ``dilated``: keep ``layer4`` but on the grid of
    ``layer3``, its convolutions holed so that the published weights mean the same (DeepLab's
    output stride 16).
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        width: float = 1.0,
        stride: int = 32,
        dilated: bool = False,
    ) -> None:
        super().__init__()
        if stride not in STAGES:
            raise InputError(f"got stride={stride}, expected one of {', '.join(map(str, STAGES))}")
        if depth not in BLOCKS:
            raise InputError(f"got depth={depth}, expected one of {', '.join(map(str, BLOCKS))}")
        self.title = f"ResNet-{depth}"
        sizes = [scaled(64 * 2**i, width) for i in range(STAGES[stride])]
        self.conv1 = nn.Conv2d(in_channels, sizes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = sizes[0]
        channels, strides = [inside], [2]
        for i, middle in enumerate(sizes):
            holed = dilated and i == 3
            stage = _stage(depth, i, inside, middle, holed)
            self.add_module(f"layer{i + 1}", stage)
            inside = middle * _kind(depth).expansion
            channels.append(inside)
            strides.append(strides[-1] if holed else 4 * 2**i)
        self.stages = [f"layer{i + 1}" for i in range(len(sizes))]
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.stride = strides[-1]
        he_start(self, "fan_out")

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        features = [self.relu(self.bn1(self.conv1(x_BCHW)))]
        y = self.maxpool(features[0])
        for name in self.stages:
            y = getattr(self, name)(y)
            features.append(y)
        return tuple(features)

    def deepest(self, x_BCHW: Tensor) -> Tensor:
        """The last of the features alone; finer ones are freed on the way."""
        y = self.maxpool(self.relu(self.bn1(self.conv1(x_BCHW))))
        for name in self.stages:
            y = getattr(self, name)(y)
        return y


def _kind(depth: int) -> type[BasicBlock] | type[Bottleneck]:
    return Bottleneck if depth >= 50 else BasicBlock


def _stage(depth: int, i: int, inside: int, middle: int, holed: bool) -> nn.Sequential:
    """Stage ``i``: the first block halves the size, except in the first stage and if ``holed``.

    Without its stride the first 3x3 convolution still sees neighbours on its input's grid; only
    those after it stand twice as far apart.
    """
    kind = _kind(depth)
    stride = 1 if i == 0 or holed else 2
    blocks: list[nn.Module] = [kind(inside, middle, stride)]
    if holed and kind is BasicBlock:
        first = blocks[0]
        first.conv2.dilation = first.conv2.padding = (2, 2)  # type: ignore[union-attr,assignment]
    for _ in range(BLOCKS[depth][i] - 1):
        blocks.append(kind(middle * kind.expansion, middle, 1, 2 if holed else 1))
    return nn.Sequential(*blocks)


class ResNet18(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    published: ClassVar[Published] = Published(
        "conv1.weight", hub=("timm/resnet18.tv_in1k", "model.safetensors")
    )

    def __init__(self, in_channels: int = 3, width: float = 1.0, stride: int = 32) -> None:
        super().__init__(18, in_channels, width, stride)


class ResNet34(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    published: ClassVar[Published] = Published(
        "conv1.weight", hub=("timm/resnet34.tv_in1k", "model.safetensors")
    )

    def __init__(self, in_channels: int = 3, width: float = 1.0, stride: int = 32) -> None:
        super().__init__(34, in_channels, width, stride)


class ResNet50(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    published: ClassVar[Published] = Published(
        "conv1.weight", hub=("timm/resnet50.tv_in1k", "model.safetensors")
    )

    def __init__(
        self,
        in_channels: int = 3,
        width: float = 1.0,
        stride: int = 32,
        dilated: bool = False,
    ) -> None:
        super().__init__(50, in_channels, width, stride, dilated)
