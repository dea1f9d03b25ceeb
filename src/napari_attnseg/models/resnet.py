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


KINDS: dict[int, type[BasicBlock | Bottleneck]] = {18: BasicBlock, 34: BasicBlock, 50: Bottleneck}


class ResNet(Encoder):
    """Features after the stem (stride 2) and after each stage (4, 8, 16, 32).

    ``width`` multiplies every layer's channels. ``stride`` 16 drops
    ``layer4``, 8 drops ``layer3`` as well. ``dilated``: keep ``layer4`` but on the grid of
    ``layer3``, its convolutions holed so that the published weights mean the same (DeepLab's
    output stride 16).
    """

    depth: ClassVar[int]

    def __init__(
        self,
        in_channels: int = 3,
        width: float = 1.0,
        stride: int = 32,
        dilated: bool = False,
    ) -> None:
        super().__init__()
        if stride not in STAGES:
            raise InputError(f"got stride={stride}, expected one of {', '.join(map(str, STAGES))}")
        self.title = f"ResNet-{self.depth}"
        self.width = width
        kind = KINDS[self.depth]
        sizes = [scaled(64 * 2**i, width) for i in range(STAGES[stride])]
        self.conv1 = nn.Conv2d(in_channels, sizes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = sizes[0]
        channels, strides = [inside], [2]
        for i, middle in enumerate(sizes):
            holed = dilated and i == 3
            stage = _stage(
                kind, BLOCKS[self.depth][i], inside, middle, 1 if i == 0 or holed else 2, holed
            )
            self.add_module(f"layer{i + 1}", stage)
            inside = middle * kind.expansion
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


def _stage(
    kind: type[BasicBlock | Bottleneck],
    count: int,
    inside: int,
    middle: int,
    stride: int,
    holed: bool,
) -> nn.Sequential:
    """``count`` blocks, the first with the ``stride``.

    ``holed`` (in place of a stride): the convolution that had it still sees neighbours on its
    input's grid; only those after it stand twice as far apart.
    """
    first = kind(inside, middle, stride)
    if holed and isinstance(first, BasicBlock):
        first.conv2.dilation = first.conv2.padding = (2, 2)
    outside = middle * kind.expansion
    rest = (kind(outside, middle, 1, 2 if holed else 1) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


def _imagenet(name: str) -> Published:
    return Published("conv1.weight", hub=(f"timm/{name}.tv_in1k", "model.safetensors"))


class ResNet18(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    depth = 18
    published: ClassVar[Published | None] = _imagenet("resnet18")


class ResNet34(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    depth = 34
    published: ClassVar[Published | None] = _imagenet("resnet34")


class ResNet50(ResNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    depth = 50
    published: ClassVar[Published | None] = _imagenet("resnet50")
