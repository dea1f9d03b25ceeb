"""Encoders by name: feature extractors of published networks, and their published weights."""

from __future__ import annotations

from collections.abc import Callable

from napari_attnseg.errors import InputError
from napari_attnseg.models.blocks import scaled
from napari_attnseg.models.efficientnet_lite import EfficientNetLite0
from napari_attnseg.models.encoder_base import Encoder, Published
from napari_attnseg.models.pretrained import (
    WeightReport,
    load_encoder_weights,
    published_file,
)
from napari_attnseg.models.resnet import BasicBlock, ResNet, ResNet18, ResNet34, ResNet50

_ENCODERS: dict[str, Callable[[int, float], Encoder]] = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "efficientnet_lite0": EfficientNetLite0,
}


def list_encoders() -> list[str]:
    """Names for :func:`create_encoder`."""
    return list(_ENCODERS)


def create_encoder(name: str, in_channels: int = 3, width: float = 1.0) -> Encoder:
    """An encoder with random weights and features of strides 2, 4, 8, 16, 32.

    ``width`` multiplies every layer's channels. Raises ``InputError`` for an unknown name.
    """
    if name not in _ENCODERS:
        raise InputError(f"got encoder={name!r}, expected one of plain, {', '.join(_ENCODERS)}")
    return _ENCODERS[name](in_channels, width)


__all__ = [
    "BasicBlock",
    "EfficientNetLite0",
    "Encoder",
    "Published",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "WeightReport",
    "create_encoder",
    "list_encoders",
    "load_encoder_weights",
    "published_file",
    "scaled",
]
