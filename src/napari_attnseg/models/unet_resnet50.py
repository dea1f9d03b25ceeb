"""U-Net over a ResNet-50, the first row of PAM-UNet's Table I."""

from __future__ import annotations

from napari_attnseg.models.base import register_model
from napari_attnseg.models.encoders import ResNet50
from napari_attnseg.models.unet import UNet, build_unet


@register_model(
    title="U-Net over ResNet-50",
    paper="Ronneberger, Fischer & Brox: U-Net (MICCAI 2015); He et al.: Deep Residual Learning for "
    "Image Recognition (CVPR 2016)",
)
def unet_resnet50(in_channels: int = 3, classes: int = 1, width: float = 1.0) -> UNet:
    """``unet`` with ``encoder="resnet50"``; ``width`` multiplies all channels."""
    return build_unet(ResNet50(in_channels, width), classes, width)
