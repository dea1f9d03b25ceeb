"""Attention of Luong's kind as loops, and drawn inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_attnseg.attention.mixing import Form


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def slow(q: Tensor, k: Tensor, v: Tensor, form: Form) -> tuple[Tensor, Tensor, Tensor]:
    """Value, spread and W, entry by entry from equations 4, 5 and 7."""
    value = torch.zeros(len(q), q.shape[1], v.shape[2], dtype=torch.float64)
    spread = torch.zeros(len(q), dtype=torch.float64)
    weights = torch.zeros(len(q), q.shape[1], k.shape[1], dtype=torch.float64)
    for b in range(len(q)):
        entries = []
        for i in range(q.shape[1]):
            scores = [form.scale * float(q[b, i] @ key) for key in k[b]]
            if form.sigma == "sigmoid":
                first = [1 / (1 + math.exp(-s)) for s in scores]
                w = [a / len(first) for a in first]
            else:
                total = sum(math.exp(s) for s in scores)
                first = [math.exp(s) / total for s in scores]
                w = first
            if form.sigma == "double":
                again = sum(math.exp(a) for a in first)
                w = [math.exp(a) / again for a in first]
            entries += first
            for j, weight in enumerate(w):
                weights[b, i, j] = weight
                value[b, i] += weight * v[b, j]
        mean = sum(entries) / len(entries)
        spread[b] = sum((a - mean) ** 2 for a in entries) / len(entries)
    return value, spread, weights


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes, and the operations' names."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(str(func))
        for item in out if isinstance(out, tuple) else (out,):
            if isinstance(item, Tensor):
                self.numel = max(self.numel, item.numel())
        return out
