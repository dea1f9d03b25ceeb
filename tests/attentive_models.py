"""Small forms of the networks whose attention stands at fixed places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.models.attentive import Attentive
from napari_attnseg.models.base import create_model

OPTIONS: dict[str, dict[str, Any]] = {
    "anu_net": {"width": 0.125, "levels": 3},
    "ca_net": {"width": 0.25},
    "dda_net": {"width": 0.25, "reduction": 2},
    "trans_unet": {"width": 0.0625, "depth": 2, "heads": 2, "grid": 3},
    "unet_transformer": {"width": 0.0625, "levels": 3},
}
SIZE = (33, 47)


def made(name: str, **options: Any) -> Attentive:
    """A small one for two channels and two classes whose parameters are all at work."""
    torch.manual_seed(7)
    model = create_model(name, in_channels=2, classes=2, **{**OPTIONS[name], **options})
    assert isinstance(model, Attentive)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return model.eval()


def parameters(name: str, classes: int, **options: Any) -> int:
    with torch.device("meta"):
        model = create_model(name, in_channels=3, classes=classes, **options)
    return sum(p.numel() for p in model.parameters())


def off(model: Attentive) -> dict[str, float]:
    """The strengths of the network without attention."""
    return dict.fromkeys(model.strength, 0.0)


def padded(x: Tensor, stride: int) -> Tensor:
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % stride, 0, -h % stride), mode="replicate")


def picture() -> Tensor:
    """Two images of two channels."""
    torch.manual_seed(3)
    return torch.rand(2, 2, *SIZE)
