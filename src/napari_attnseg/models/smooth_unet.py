"""The Smooth Attention paper's network: ResNet-18, Smooth Attention, transposed convolutions.

No skip connections (the paper says U-Net, its code has none): attention stands at the bottleneck
alone, and each attention position decides one square cell of the output.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from napari_attnseg.attention.base import Attended
from napari_attnseg.attention.smooth import BORDERS, SmoothAttention, check_rule
from napari_attnseg.models.base import (
    Encoded,
    Place,
    SegmentationModel,
    pad_to_multiple,
    register_model,
)
from napari_attnseg.models.blocks import CellDecoder
from napari_attnseg.models.encoders import ResNet18, scaled
from napari_attnseg.settings import RULES, Tunable, Tuning

DECODER = (512, 256, 128, 64, 32)
"""Channels of the paper's decoder before the classes; smaller strides drop the first ones."""


class SmoothUNet(SegmentationModel):
    """``decode(attention(encode(x)))``; 12,661,410 parameters for 3 channels, 1 class, stride 32.

    Parts: ``encoder`` (ResNet-18), ``attention`` (Smooth Attention), ``decoder``.
    """

    gate_values: ClassVar[tuple[str, ...]] = ("threshold", "rule", "gamma")

    def __init__(self, encoder: ResNet18, attention: SmoothAttention, decoder: CellDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = attention
        self.decoder = decoder
        self.stride = encoder.stride
        self.cell = decoder.cell

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        return self.attention.tunables

    @property
    def places(self) -> tuple[Place, ...]:
        return (Place("attention", f"bottleneck, 1/{self.stride} resolution", self.stride),)

    def adopt(self, tuning: Tuning) -> None:
        self.attention.threshold = float(tuning.get("threshold", self.attention.threshold))
        self.attention.rule = check_rule(str(tuning.get("rule", self.attention.rule)))

    def encode(self, x_BCHW: Tensor) -> Encoded:
        h, w = x_BCHW.shape[-2:]
        return Encoded(self.encoder.deepest(pad_to_multiple(x_BCHW, self.stride)), (h, w))

    def attend(self, encoded: Encoded) -> Attended:
        return self.attention.attend(encoded.features)

    def gate(self, encoded: Encoded, attended: Attended | None, **values: Any) -> Tensor:
        if attended is None:
            attended = self.attend(encoded)
        return self.attention.gate(encoded.features, attended, **values)

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.decoder(features)[..., : size[0], : size[1]]


@register_model(
    title="Smooth Attention U-Net",
    paper="Smooth Attention: Improving Image Semantic Segmentation",
    choices={"stride": (8, 16, 32), "rule": RULES, "border": BORDERS},
)
def smooth_unet(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    stride: int = 32,
    key_channels: int | None = None,
    rule: str = "paper",
    threshold: float = 0.2,
    scale: bool = True,
    border: str = "replicate",
) -> SmoothUNet:
    """``width`` multiplies all channels; ``stride`` 8, 16 or 32 is pixels per attention position;
    ``key_channels`` of query and key (``None``: all); the rest as in ``SmoothAttention``."""
    encoder = ResNet18(in_channels, width, stride)
    attention = SmoothAttention(
        encoder.channels[-1],
        key_channels,
        rule=rule,
        threshold=threshold,
        scale=scale,
        border=border,
    )
    doublings = stride.bit_length() - 1
    channels = tuple(scaled(c, width) for c in DECODER[-doublings:])
    return SmoothUNet(encoder, attention, CellDecoder((*channels, classes)))
