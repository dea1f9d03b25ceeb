"""What the tests of single attentions share: modules full of random numbers, and their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_attnseg import create_attention
from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.attention.recording import recording


def filled(module: nn.Module, seed: int = 3, scale: float = 0.5) -> Any:
    """Evaluation mode, float64, every number random (what starts at zero too)."""
    torch.manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * scale)
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn_like(b) * 0.1)
            elif name.endswith("running_var"):
                b.copy_(torch.rand_like(b) + 0.5)
    return module


def fresh(name: str, channels: int = 8, **options: Any) -> Any:
    """An attention by name, filled."""
    torch.manual_seed(1)
    return filled(create_attention(name, channels, **options))


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """All parameters and buffers."""
    return {n: t.detach().numpy() for n, t in module.state_dict().items()}


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def support(module: nn.Module, at: tuple[int, ...], x: Tensor, *more: Tensor) -> Tensor:
    """Which positions of ``x`` the answer at ``at`` depends on: bool, the grid of x."""
    x = x.clone().requires_grad_()
    out = module(x, *more)
    (got,) = torch.autograd.grad(out[(slice(None), slice(None), *at)].square().sum(), x)
    return (got.abs().sum((0, 1)) > 1e-14).detach()


def rows_of(
    module: AttentionModule, at: tuple[int, ...], *inputs: Tensor, name: str = "row"
) -> Any:
    """The recorded row called ``name`` of grid position ``at``."""
    grid = inputs[0].shape[2:]
    query = tuple((a + 0.5) / n for a, n in zip(at, grid, strict=True))
    with torch.no_grad(), recording(module, query) as tape:
        module(*inputs)
    (found,) = [r.values for r in tape.records if r.name == name]
    return found


def parameters(name: str, channels: int = 64, **options: Any) -> int:
    """How many numbers learn."""
    made = create_attention(name, channels, **options)
    return sum(p.numel() for p in made.parameters() if p.requires_grad)
