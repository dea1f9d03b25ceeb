"""A small random model in which threshold, rule and cut all matter."""

from __future__ import annotations

from typing import Any

import torch

from napari_attnseg.models import create_model


def lively_model(classes: int = 1, in_channels: int = 1, **options: Any) -> Any:
    """``smooth_unet`` with sharpened attention, gamma 1.5 and logits of mean 0 and spread 2."""
    torch.manual_seed(3)
    made = {"width": 0.125, "stride": 8, **options}
    model = create_model("smooth_unet", in_channels=in_channels, classes=classes, **made).eval()
    x = torch.rand(1, in_channels, 96, 96, generator=torch.Generator().manual_seed(1))
    last = model.decoder.layers[-1]
    with torch.no_grad():
        model.attention.gamma.fill_(1.5)
        model.attention.query.weight.mul_(2.5)
        model.attention.key.weight.mul_(2.5)
        logits = model((x - 0.4) / 0.3)
        scale = 2 / logits.std((0, 2, 3))
        last.weight.mul_(scale[:, None, None])
        last.bias.copy_((last.bias - logits.mean((0, 2, 3))) * scale)
    return model
