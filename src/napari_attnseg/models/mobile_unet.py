"""Mobile-UNet: a U-Net over a MobileNetV2 encoder (a row of PAM-UNet's tables I and II)."""

from __future__ import annotations

from napari_attnseg.models.base import register_model
from napari_attnseg.models.inverted_residual import MobileNetV2
from napari_attnseg.models.unet import UNet, build_unet


@register_model(
    title="Mobile-UNet",
    paper="PAM-UNet: Shifting Attention on Region of Interest in Medical Images (table I)",
)
def mobile_unet(in_channels: int = 3, classes: int = 1, width: float = 1.0) -> UNet:
    """``width`` multiplies all channels. 6,628,945 parameters for 3 channels and 1 class;
    0.836 GMACs at 128 x 128 (the paper has 0.85)."""
    return build_unet(MobileNetV2(in_channels, width), classes, width)
