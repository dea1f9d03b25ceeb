"""ResNet-18 (He et al., CVPR 2016) as an encoder, with the parameter names of published weights.

Written from the paper; names and order equal those of the usual PyTorch state dicts, so that
ImageNet weights load from a local file. ``stride`` 32 keeps all four stages, 16 drops ``layer4``,
8 drops ``layer3`` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.models.weights import read_state_dict

STAGES = {8: 2, 16: 3, 32: 4}
"""Encoder stride to number of residual stages."""


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width multiplier, at least 4."""
    return max(4, round(channels * width))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))``."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet18(nn.Module):
    """(B, in_channels, H, W) to (B, ``channels``, H/stride, W/stride).

    ``width`` multiplies every layer's channels (1.0: 64, 128, 256, 512). H and W must be
    multiples of ``stride``.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0, stride: int = 32) -> None:
        super().__init__()
        if stride not in STAGES:
            raise InputError(f"got stride={stride}, expected one of {', '.join(map(str, STAGES))}")
        if not width > 0:
            raise InputError(f"got width={width}, expected a number above 0 (1.0 is the full net)")
        sizes = [scaled(64 * 2**i, width) for i in range(STAGES[stride])]
        self.conv1 = nn.Conv2d(in_channels, sizes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = sizes[0]
        self.stages: list[str] = []
        for i, outside in enumerate(sizes):
            first = BasicBlock(inside, outside, 1 if i == 0 else 2)
            self.add_module(f"layer{i + 1}", nn.Sequential(first, BasicBlock(outside, outside, 1)))
            self.stages.append(f"layer{i + 1}")
            inside = outside
        self.channels = inside
        self.stride = stride
        self._start()

    def _start(self) -> None:
        """He initialisation of the convolutions, as in the paper."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            y = getattr(self, name)(y)
        return y


@dataclass(frozen=True)
class WeightReport:
    """What became of a published state dict: names ``loaded``, ``ignored`` (in the file alone),
    ``missing`` (in the encoder alone), and ``adapted`` in words."""

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    adapted: str = ""

    @property
    def text(self) -> str:
        """One sentence for the person."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.ignored:
            parts.append(f"{len(self.ignored)} ignored ({_some(self.ignored)})")
        if self.missing:
            parts.append(f"{len(self.missing)} left random ({_some(self.missing)})")
        return ", ".join([*parts, *([self.adapted] if self.adapted else [])])


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def load_encoder_weights(encoder: ResNet18, path: str | Path) -> WeightReport:
    """Load published ResNet-18 weights (.safetensors, or .pt/.pth read without unpickling code).

    The classifier and absent stages are ignored. For other than 3 input channels the first
    convolution is the sum over colours, spread over the channels. Raises ``CheckpointError`` when
    the file is no ResNet-18 of this width.
    """
    path = Path(path)
    state = {k.removeprefix("module."): v for k, v in read_state_dict(path).items()}
    own = encoder.state_dict()
    first, adapted = state.get("conv1.weight"), ""
    if first is not None and first.ndim == 4 and first.shape[1] != own["conv1.weight"].shape[1]:
        n = own["conv1.weight"].shape[1]
        state["conv1.weight"] = first.sum(1, keepdim=True).expand(-1, n, -1, -1) / n
        adapted = f"first convolution adapted from {first.shape[1]} to {n} input channels"
    shared = {name: value for name, value in state.items() if name in own}
    if "conv1.weight" not in shared:
        raise CheckpointError(
            f"{path.name} holds no ResNet-18 weights (no tensor conv1.weight); "
            "expected a state dict with the usual names"
        )
    for name, value in shared.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{path.name}: {name} is {tuple(value.shape)}, but this encoder expects "
                f"{tuple(own[name].shape)}; published weights need width=1.0 of ResNet-18"
            )
    encoder.load_state_dict({k: v.to(torch.float32) for k, v in shared.items()}, strict=False)
    missing = set(own) - set(shared)
    ignored = set(state) - set(own)
    missing = {name for name in missing if not name.endswith("num_batches_tracked")}
    return WeightReport(tuple(shared), tuple(sorted(ignored)), tuple(sorted(missing)), adapted)
