"""Transformer blocks against the library's attention and against loops; positions."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of
from torch import Tensor, nn

from napari_attnseg import create_attention
from napari_attnseg.attention.pairwise import Pairwise
from napari_attnseg.attention.vit import sinusoid
from napari_attnseg.errors import InputError


def library(pairs: Pairwise, channels: int) -> nn.MultiheadAttention:
    """The library's module with the same weights."""
    twin = nn.MultiheadAttention(channels, pairs.heads, batch_first=True).double().eval()
    parts = [pairs.query, pairs.key, pairs.value]
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([p.weight.flatten(1) for p in parts]))  # type: ignore
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))  # type: ignore
        twin.out_proj.weight.copy_(pairs.out.weight.flatten(1))  # type: ignore
        twin.out_proj.bias.copy_(pairs.out.bias)  # type: ignore
    return twin


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_equals_the_library(heads: int) -> None:
    module, x = fresh("vit", heads=heads), noise(2, 8, 5, 7)
    block = module.blocks[0]
    twin = library(block.pairs, 8)
    with torch.no_grad():
        t = x.flatten(2).mT
        first = nn.functional.layer_norm(t, (8,), block.before.weight, block.before.bias)
        answer, a = twin(first, first, first, average_attn_weights=False)
        t = t + answer
        second = nn.functional.layer_norm(t, (8,), block.after.weight, block.after.bias)
        w1, w2 = block.mlp[0], block.mlp[2]
        hidden = nn.functional.gelu(second @ w1.weight.flatten(1).T + w1.bias)
        t = t + hidden @ w2.weight.flatten(1).T + w2.bias
        torch.testing.assert_close(module(x), t.mT.view_as(x))
        row = rows_of(module, (3, 2), x)
        torch.testing.assert_close(row.reshape(2, heads, -1), a[:, :, 3 * 7 + 2])


def test_without_the_perceptron_equals_the_slow_twin() -> None:
    module, x = fresh("vit", heads=2, mlp_ratio=0.0), noise(1, 8, 3, 5)
    p, item = slow.under("blocks.0", arrays(module)), x[0].numpy()
    t = slow.layer_norm(item, p["before.weight"], p["before.bias"])
    q, k, v = (
        slow.project(t, p[f"pairs.{n}.weight"], p[f"pairs.{n}.bias"])
        for n in ("query", "key", "value")
    )
    mixed = slow.attend(q, k, v, slow.everywhere, heads=2)
    expected = item + slow.project(mixed, p["pairs.out.weight"], p["pairs.out.bias"])
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)


def test_two_blocks_are_one_after_the_other() -> None:
    module, x = fresh("vit", depth=2), noise(1, 8, 5, 7)
    first, second = module.blocks
    torch.testing.assert_close(module(x), second(first(x)))
    with torch.no_grad():
        mixed = torch.einsum("bmij,bmcj->bmci", module.operator(x), module.values(x))
        torch.testing.assert_close(module.collect(mixed, x), module(x))


@pytest.mark.parametrize("position", ["none", "sinusoid"])
def test_only_positions_tell_where_pixels_lie(position: str) -> None:
    module, x = fresh("vit", position=position), noise(1, 8, 4, 6)
    same = torch.allclose(module(x.flip(-1)), module(x).flip(-1))
    assert same == (position == "none")


def test_sines_and_cosines_by_hand() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    codes = sinusoid((5, 7), 8, like)
    at = torch.arange(7, dtype=torch.float64)
    assert (codes[:4].std(-1) == 0).all(), "the first half tells rows alone"
    torch.testing.assert_close(codes[4, 2], at.sin())
    torch.testing.assert_close(codes[5, 2], (at / 100).sin())
    torch.testing.assert_close(codes[6, 2], at.cos())
    assert sinusoid((3, 4, 5), 7, like).isfinite().all()

    def apart(x: Tensor) -> float:
        flat = x.flatten(1).mT
        return float((torch.cdist(flat, flat) + torch.eye(len(flat))).min())

    assert apart(codes) > 0.1


def test_parameters_and_options() -> None:
    assert parameters("vit") == 49_984
    assert parameters("vit", mlp_ratio=0.0) == 16_640 + 2 * 64
    with pytest.raises(InputError, match="got depth=0"):
        create_attention("vit", 8, depth=0)
    with pytest.raises(InputError, match="got position='learned'"):
        create_attention("vit", 8, position="learned")
