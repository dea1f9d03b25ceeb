"""Features and filled weights for gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

C = 16
SIZES = [(7, 11), (3, 5, 4)]


def features(size: tuple[int, ...], channels: int = C, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(2, channels, *size, dtype=torch.float64)


def filled(module: nn.Module, value: float | None = None) -> None:
    """In evaluation mode; weights of layers random, or all of one value."""
    module.double().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                for p in part.parameters():
                    p.copy_(torch.randn_like(p) * 0.4 if value is None else p * 0 + value)
