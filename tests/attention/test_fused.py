"""The fused path: same answer as the textbook, whatever lies where in memory; never N x N."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from shelf import noise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_attnseg.attention import fused
from napari_attnseg.attention.base import sample_attention

DENSE = ("position", "nonlocal", "vit", "cross", "luong", "joint", "smooth")
SIDE = 64


class Watch(TorchDispatchMode):
    """Names of operations and the largest tensor that came out of any."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self.largest = max(self.largest, t.untyped_storage().nbytes() // 4)
        return out


@contextmanager
def watched() -> Iterator[Watch]:
    with Watch() as seen:
        yield seen


def textbook(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q @ k.mT * scale, -1) @ v


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("small", [True, False])
def test_equals_the_textbook(width: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small:
        monkeypatch.setattr(fused, "SMALL_BYTES", 0)
    q, k, v = noise(2, 3, 11, 3), noise(2, 3, 7, 3, seed=1), noise(2, 3, 7, width, seed=2)
    parts = [t.requires_grad_() for t in (q, k, v)]
    got, expected = fused.attend(*parts, scale=0.6), textbook(*parts, 0.6)
    torch.testing.assert_close(got, expected)
    pull = noise(2, 3, 11, width, seed=3)
    for a, b in zip(
        torch.autograd.grad((got * pull).sum(), parts),
        torch.autograd.grad((expected * pull).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_biases_are_added_and_masked_keys_not_seen() -> None:
    q, k, v = noise(2, 3, 7, 4), noise(2, 3, 7, 4, seed=1), noise(2, 3, 7, 4, seed=2)
    bias = noise(1, 3, 7, 7, seed=3)
    expected = torch.softmax(q @ k.mT * 0.5 + bias, -1) @ v
    torch.testing.assert_close(fused.attend(q, k, v, 0.5, bias), expected)
    seen = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    seen[..., 4:] = False
    expected = textbook(q, k[:, :, :4], v[:, :, :4], 0.5)
    torch.testing.assert_close(fused.attend(q, k, v, 0.5, seen), expected)


def test_turned_tensors_keep_to_the_fast_path() -> None:
    """Tokens read off a feature map are not contiguous; the library's kernel would leave them."""
    q, k, v = (noise(1, 2, 8, 256, seed=i).float().mT for i in range(3))
    assert not q.is_contiguous()
    with watched() as seen:
        got = fused.attend(q, k, v, 0.3)
    assert any("flash" in name for name in seen.names)
    assert not any("softmax" in name for name in seen.names)
    torch.testing.assert_close(got, textbook(q, k, v, 0.3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", DENSE)
def test_the_dense_ones_never_hold_n_by_n(name: str, train: bool) -> None:
    torch.manual_seed(0)
    module = sample_attention(name, 8).train(train)
    x = torch.randn(1, 8, SIDE, SIDE)
    args = (x, torch.randn_like(x)) if module.role == "gate" else (x,)
    with torch.set_grad_enabled(train), watched() as seen:
        y = module(*args)
        if train:
            y.sum().backward()
    assert seen.largest < SIDE**4 / 3
