"""Inverted residual blocks and the MobileNetV2 encoder (Sandler et al., CVPR 2018).

Written from the paper; names and order of the parameters equal those of the usual PyTorch state
dicts (``features.N.conv.M...``), so that published weights load.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.blocks import PooledNorm, he_start, scaled
from napari_attnseg.models.encoder_base import Encoder, Published

EXPANSION = 6
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2 of the MobileNetV2 paper: expansion, channels, blocks, stride of the first block."""
STEM = 32
LAST = 1280
"""Channels of the published network's last 1x1 convolution."""
TAPS = (0, 1, 2, 4)
"""Stages whose outputs are the last at strides 2, 4, 8 and 16."""


class ConvBNReLU(nn.Sequential):
    """Convolution without bias (``groups`` as in ``Conv2d``), batch normalisation, ReLU6."""

    def __init__(
        self, inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=False),
            PooledNorm(outside),
            nn.ReLU6(inplace=True),
        )


class UpBNReLU(nn.Sequential):
    """Depthwise transposed convolution (kernel 4, exactly twice the size), normalised, ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels, 4, 2, 1, groups=channels, bias=False),
            PooledNorm(channels),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; the last two are a depthwise separable
    convolution (PAM-UNet, equation 1).

    (B, inside, H, W) to (B, outside, H/stride, W/stride), or (2 H, 2 W) with ``transposed`` (then
    ``stride`` must be 2). The input is added where its shape is the output's: stride 1 and
    ``inside == outside``. ``expansion`` 1 leaves the first convolution out.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int = 1,
        expansion: int = EXPANSION,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        if stride not in (1, 2) or (transposed and stride != 2):
            raise InputError(
                f"got stride={stride}, expected 1 or 2 (2 for a transposed convolution)"
            )
        hidden = inside * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvBNReLU(inside, hidden, 1))
        if transposed:
            layers.append(UpBNReLU(hidden))
        else:
            layers.append(ConvBNReLU(hidden, hidden, 3, stride, groups=hidden))
        layers += [nn.Conv2d(hidden, outside, 1, bias=False), PooledNorm(outside)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Encoder):
    """(B, in_channels, H, W) to five feature maps, finest first, at strides 2, 4, 8, 16 and 32.

    ``width`` multiplies all channels (1.0: 16, 24, 32, 96 and ``last``). ``last``: channels of the
    1x1 convolution behind the last stage (the published 1280; 0: none, the deepest feature has
    320). H and W must be multiples of 32.
    """

    title = "MobileNetV2"
    published: ClassVar[Published] = Published(
        "features.0.0.weight", hub=("timm/mobilenetv2_100.ra_in1k", "model.safetensors")
    )
    strides = (2, 4, 8, 16, 32)

    def __init__(self, in_channels: int = 3, width: float = 1.0, last: int = LAST) -> None:
        super().__init__()
        self.width = width
        sizes = [scaled(channels, width) for _, channels, _, _ in STAGES]
        inside = scaled(STEM, width)
        layers: list[nn.Module] = [ConvBNReLU(in_channels, inside, 3, 2)]
        ends = []
        for (expansion, _, count, stride), outside in zip(STAGES, sizes, strict=True):
            for number in range(count):
                first = number == 0
                layers.append(InvertedResidual(inside, outside, stride if first else 1, expansion))
                inside = outside
            ends.append(len(layers))
        deepest = scaled(last, width) if last else sizes[-1]
        tail = ConvBNReLU(inside, deepest, 1) if last else nn.Identity()
        if last == LAST:  # as published; another size has its own name, so that the rest loads
            layers.append(tail)
            tail = nn.Identity()
        self.features = nn.Sequential(*layers)
        self.last = tail
        self.channels = (*(sizes[i] for i in TAPS), deepest)
        self.stops = (0, *(ends[i] for i in TAPS), len(layers))
        he_start(self, "fan_out")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = []
        for begin, end in pairwise(self.stops):
            for layer in self.features[begin:end]:
                x = layer(x)
            found.append(x)
        found[-1] = self.last(x)
        return tuple(found)

    def own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of torchvision's names and timm's, without the published last convolution where this
        encoder has another one, or none."""
        renamed = {_other_name(name): value for name, value in state.items()}
        own = len(self.features)
        return {
            name: value
            for name, value in renamed.items()
            if not (name.startswith("features.") and int(name.split(".")[1]) >= own)
        }


OUTER = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.18.0",
    "bn2": "features.18.1",
}
FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
INNER = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "2",
    "bn3": "3",
}
"""timm's names to torchvision's: outside the blocks, in the one without expansion, in the rest."""


def _other_name(name: str) -> str:
    """The name in torchvision's network of what timm calls ``blocks.STAGE.NUMBER.LAYER...``."""
    head, _, rest = name.partition(".")
    if head in OUTER:
        return f"{OUTER[head]}.{rest}"
    if head != "blocks":
        return name
    stage, number, layer, last = rest.split(".", 3)
    block = 1 + sum(count for _, _, count, _ in STAGES[: int(stage)]) + int(number)
    layers = FIRST if stage == "0" else INNER
    return f"features.{block}.conv.{layers.get(layer, layer)}.{last}"
