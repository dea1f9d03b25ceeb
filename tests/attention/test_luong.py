"""Luong attention against slow loops, cases by hand and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from luong_loops import Largest, drawn, slow
from torch import Tensor

from napari_attnseg import create_attention
from napari_attnseg.attention import mixing
from napari_attnseg.attention.luong import LuongAttention
from napari_attnseg.attention.mixing import SIGMAS, Form, mix, mix_and_spread
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

B, N, M, D, C = 2, 13, 11, 3, 5


def tokens(n: int = N, m: int = M, c: int = C) -> tuple[Tensor, Tensor, Tensor]:
    return drawn(B, n, D, seed=1), drawn(B, m, D, seed=2), drawn(B, m, c, seed=3)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("block_bytes", [None, 1, 5 * M * 8, 2 * N * M * 8])
def test_streamed_equals_the_loops(sigma: str, block_bytes: int | None) -> None:
    q, k, v = tokens()
    form = Form(sigma, 0.7, block_bytes)
    value, spread, weights = slow(q, k, v, form)
    torch.testing.assert_close(mix(q, k, v, form), value)
    got = mix_and_spread(q, k, v, form)
    torch.testing.assert_close(got[0], value)
    torch.testing.assert_close(got[1], spread)
    torch.testing.assert_close(mixing.received(q, k, form), weights.mean(1))
    torch.testing.assert_close(mixing.row(q[:, 4], k, form), weights[:, 4])


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("channels", [3, 16])  # from 16 on the library's own attention predicts
def test_learning_and_predicting_compute_the_same(sigma: str, channels: int) -> None:
    q, k, v = (drawn(B, n, channels, seed=n).float() for n in (200, 170, 170))
    form = Form(sigma, channels**-0.5, 64 * 170 * 4)
    predicted = mix(q, k, v, form)
    learned = mix(q.requires_grad_(), k, v, form)
    torch.testing.assert_close(learned, predicted, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(mix_and_spread(q, k, v, form)[0], predicted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("block_bytes", [None, 1])
def test_gradients_of_value_and_spread(sigma: str, block_bytes: int | None) -> None:
    q, k, v = (t.requires_grad_() for t in tokens(7, 5, 4))
    form = Form(sigma, 1.3, block_bytes)
    run: Callable[..., object] = lambda *qkv: mix_and_spread(*qkv, form)  # noqa: E731
    assert torch.autograd.gradcheck(run, (q, k, v))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gradients_equal_those_of_the_whole_matrix(sigma: str) -> None:
    q, k, v = (t.requires_grad_() for t in tokens(91, 77, D))
    form = Form(sigma, 1.3, 10 * 77 * 8)
    scores = q @ k.mT * form.scale
    a = torch.sigmoid(scores) if sigma == "sigmoid" else torch.softmax(scores, -1)
    w = {"softmax": a, "sigmoid": a / 77, "double": torch.softmax(a, -1)}[sigma]
    pull = drawn(B, 91, D, seed=9)
    spread = (a - a.mean((1, 2), keepdim=True)).square().mean((1, 2))
    expected = torch.autograd.grad((w @ v * pull).sum() + 300 * spread.sum(), (q, k, v))
    value, got = mix_and_spread(q, k, v, form)
    found = torch.autograd.grad((value * pull).sum() + 300 * got.sum(), (q, k, v))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# --- never the whole matrix -----------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("learning", [True, False])
def test_no_tensor_is_as_large_as_the_matrix(sigma: str, learning: bool) -> None:
    n = 32 * 33
    q, k, v = (torch.randn(1, n, 16, requires_grad=learning) for _ in range(3))
    form = Form(sigma, 0.5, 16 * n * 4)
    with Largest() as seen:
        if learning:
            value, spread = mix_and_spread(q, k, v, form)
            (value.sum() + spread.sum()).backward()
        else:
            mix(q, k, v, form)
    assert seen.names
    assert seen.numel <= 16 * n


# --- the regulariser ------------------------------------------------------------------------------


def spread_of(q: Tensor, k: Tensor, sigma: str = "softmax", scale: float = 1.0) -> float:
    v = torch.zeros(1, k.shape[1], 1, dtype=q.dtype)
    (value,) = mix_and_spread(q, k, v, Form(sigma, scale, 3 * 8 * k.shape[1]))[1]
    return float(value)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_uniform_attention_has_no_spread(sigma: str) -> None:
    keys = torch.ones(1, 64, 4)
    assert spread_of(torch.randn(1, 64, 4), keys, "softmax") <= 1e-12
    assert spread_of(torch.zeros(1, 64, 4), torch.randn(1, 64, 4), sigma) <= 1e-12


def test_one_hot_attention_has_all_of_it() -> None:
    eye = torch.eye(64)[None]
    assert spread_of(eye, eye, scale=1e4) == pytest.approx(0.015380859375, rel=1e-6)  # 63 / 64^2
    assert spread_of(eye.double(), eye.double(), "double", 1e4) == pytest.approx(63 / 4096)


def test_bounds_of_the_spread() -> None:
    q, k = torch.randn(1, 4096, 1) * 2, torch.ones(1, 4096, 1) * torch.randn(1, 4096, 1)
    softmax, sigmoid = spread_of(q, k), spread_of(q * 100, k, "sigmoid")
    assert 0 < softmax <= 4095 / 4096**2
    assert 0.2 < sigmoid <= 0.25  # half of the entries near 0, half near 1


# --- scores of Luong and Bahdanau ----------------------------------------------------------------


def scored(score: str, context: int = 4, **kw: str) -> LuongAttention:
    torch.manual_seed(3)
    module = LuongAttention(4, context, score=score, **kw).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return module


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
@pytest.mark.parametrize("block", [None, 1])
def test_scores_equal_loops(score: str, block: int | None) -> None:
    module = scored(score, 4 if score == "dot" else 3)
    module.block_bytes = block
    x, g = drawn(1, 4, 3, 5), drawn(1, 4 if score == "dot" else 3, 2, 4, seed=1)
    queries, keys = x[0].flatten(1).T, g[0].flatten(1).T
    out, rows = torch.zeros(4, 15, dtype=torch.float64), torch.zeros(15, 8, dtype=torch.float64)
    with torch.no_grad():
        values = module.value(g)[0].flatten(1).T
        for i, h in enumerate(queries):
            s = torch.zeros(8, dtype=torch.float64)
            for j, other in enumerate(keys):
                if score == "dot":
                    s[j] = h @ other
                elif score == "general":
                    s[j] = h @ module.key.weight[:, :, 0, 0] @ other
                else:
                    both = torch.cat([module.query.weight, module.key.weight], 1)[:, :, 0, 0]
                    s[j] = module.w @ torch.tanh(both @ torch.cat([h, other]))
            rows[i] = torch.exp(s) / torch.exp(s).sum()
            out[:, i] = sum(a * v for a, v in zip(rows[i], values, strict=True))
        torch.testing.assert_close(module(x, g)[0].flatten(1), x[0].flatten(1) + out)
        with recording(module, queries=[(0.0, 0.0), (0.9, 0.5)]) as tape:
            module(x, g)
    received, first, second = tape.records
    torch.testing.assert_close(received.values[0].flatten(), rows.mean(0))
    torch.testing.assert_close(first.values[0].flatten(), rows[0])
    torch.testing.assert_close(second.values[0].flatten(), rows[2 * 5 + 2])
    assert (second.query, second.geometry.stride) == (1, (1.5, 1.25))


def test_general_with_the_identity_is_dot_and_a_zero_vector_is_the_mean() -> None:
    x, g = drawn(1, 4, 3, 5), drawn(1, 4, 2, 4, seed=1)
    general, concat = scored("general"), scored("concat")
    with torch.no_grad():
        general.key.weight.copy_(torch.eye(4)[:, :, None, None])
        concat.w.zero_()
    torch.testing.assert_close(general(x, g), scored("dot")(x, g))
    mean = g.mean((2, 3), keepdim=True)
    torch.testing.assert_close(concat(x, g) - x, mean.expand_as(x))


def test_additive_scores_learn_block_by_block() -> None:
    whole, blocks = scored("concat").train(), scored("concat").train()
    blocks.block_bytes = 1
    x, g = drawn(2, 4, 3, 5), drawn(2, 4, 2, 4, seed=1)
    for module in (whole, blocks):
        out = module(x, g)
        (out.square().sum() + 3 * module.regulariser).backward()
    a = torch.softmax(
        torch.tanh(whole.query(x).flatten(2).mT[:, :, None] + whole.key(g).flatten(2).mT[:, None])
        @ whole.w,
        -1,
    )
    torch.testing.assert_close(whole.regulariser, a.var((1, 2), correction=0).mean())
    for one, other in zip(whole.parameters(), blocks.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_parameters_and_refused_combinations() -> None:
    def count(score: str) -> int:
        return sum(p.numel() for p in create_attention("luong", 64, score=score).parameters())

    assert (count("dot"), count("general"), count("concat")) == (0, 4096, 8256)
    with pytest.raises(InputError, match="got score='max'"):
        create_attention("luong", 4, score="max")
    with pytest.raises(InputError, match="got score 'dot' for 4 and 6 channels"):
        create_attention("luong", 4, context_channels=6, score="dot")
    with pytest.raises(InputError, match="got sigma 'double' with score 'concat'"):
        create_attention("luong", 4, score="concat", sigma="double")
    with pytest.raises(InputError, match="got score 'general' with split=True"):
        create_attention("luong", 4, score="general", split=True)
