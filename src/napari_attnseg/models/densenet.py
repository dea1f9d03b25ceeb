"""DenseNet (Huang et al., CVPR 2017) as an encoder, with the parameter names of published weights.

Written from the paper; names equal those of the usual PyTorch state dicts (``features.conv0``,
``features.denseblock1.denselayer1.norm1`` ...), so that ImageNet weights load from a local file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.blocks import he_start
from napari_attnseg.models.encoder_base import Encoder, Published

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution, in units of the growth."""


@dataclass(frozen=True)
class Plan:
    """``stem`` channels of the first convolution, ``growth`` channels that every layer adds,
    layers of the four ``blocks``, and H-DenseUNet's ``tail``: channels of the convolution at full
    resolution before the classes."""

    stem: int
    growth: int
    blocks: tuple[int, int, int, int]
    tail: int = 64

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at 1/2, 1/4, 1/8, 1/16 (before the transitions) and 1/32 resolution."""
        found, now = [self.stem], self.stem
        for i, layers in enumerate(self.blocks):
            now = (now // 2 if i else now) + layers * self.growth
            found.append(now)
        return tuple(found)


PLANS: dict[str, Plan] = {
    "161": Plan(96, 48, (6, 12, 36, 24)),
    "121": Plan(64, 32, (6, 12, 24, 16)),
    "narrow": Plan(24, 12, (4, 4, 6, 4), tail=16),
}
"""DenseNet-161 (H-DenseUNet's) and -121 of the papers; ours for small files and processors."""


class DenseLayer(nn.Module):
    """``conv3x3(relu(bn(conv1x1(relu(bn(x))))))`` appended to x: ``growth`` channels more."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        middle = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, middle, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu_(self.norm1(x)))
        return torch.cat((x, self.conv2(torch.relu_(self.norm2(y)))), 1)


def dense_block(inside: int, growth: int, layers: int) -> nn.Sequential:
    """``inside`` to ``inside + layers * growth`` channels."""
    block = nn.Sequential()
    for i in range(layers):
        block.add_module(f"denselayer{i + 1}", DenseLayer(inside + i * growth, growth))
    return block


class Transition(nn.Module):
    """Half the channels at half the resolution."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inside)
        self.conv = nn.Conv2d(inside, inside // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(torch.relu_(self.norm(x))), 2, 2)


class DenseNet(Encoder):
    """(B, in_channels, H, W) to five feature maps, finest first: ``channels`` at ``strides``.

    The taps of H-DenseUNet: the stem after its ReLU at 1/2, the dense blocks before their
    transitions at 1/4, 1/8 and 1/16, and the last block after BN and ReLU at 1/32. H and W must be
    multiples of 32.
    """

    strides = (2, 4, 8, 16, 32)

    def __init__(self, in_channels: int = 3, plan: str = "161") -> None:
        super().__init__()
        if plan not in PLANS:
            raise InputError(f"got plan {plan!r}, expected one of {', '.join(PLANS)}")
        self.title = f"DenseNet-{plan}"
        self.plan = PLANS[plan]
        self.channels = self.plan.channels
        self.features = nn.Module()
        self.features.conv0 = nn.Conv2d(in_channels, self.plan.stem, 7, 2, 3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(self.plan.stem)
        inside = self.plan.stem
        for i, layers in enumerate(self.plan.blocks, start=1):
            block = dense_block(inside, self.plan.growth, layers)
            self.features.add_module(f"denseblock{i}", block)
            if i < len(self.plan.blocks):
                self.features.add_module(f"transition{i}", Transition(self.channels[i]))
            inside = self.channels[i] // 2
        self.features.norm5 = nn.BatchNorm2d(self.channels[-1])
        he_start(self)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        f = self.features
        taps = [torch.relu_(f.norm0(f.conv0(x_BCHW)))]
        y = nn.functional.max_pool2d(taps[0], 3, 2, 1)
        for i in range(1, len(self.plan.blocks)):
            taps.append(f.get_submodule(f"denseblock{i}")(y))
            y = f.get_submodule(f"transition{i}")(taps[-1])
        return (*taps, torch.relu_(f.norm5(f.denseblock4(y))))

    def own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``norm.1.`` as in files of the first PyTorch releases is ``norm1.`` here."""
        return {_OLD.sub(r"\1\2", name): value for name, value in state.items()}


_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class DenseNet161(DenseNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    published: ClassVar[Published] = Published(
        "features.conv0.weight", hub=("timm/densenet161.tv_in1k", "model.safetensors")
    )

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels, "161")


class DenseNet121(DenseNet):
    """Weights: ImageNet-1k, as torchvision publishes them."""

    published: ClassVar[Published] = Published(
        "features.conv0.weight", hub=("timm/densenet121.tv_in1k", "model.safetensors")
    )

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels, "121")


def densenet(plan: str, in_channels: int = 3) -> DenseNet:
    """The encoder of a plan; raises ``InputError`` for an unknown one."""
    published = {"161": DenseNet161, "121": DenseNet121}
    return published[plan](in_channels) if plan in published else DenseNet(in_channels, plan)
