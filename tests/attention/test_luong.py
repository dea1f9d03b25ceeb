"""Luong attention against slow loops, cases by hand and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_attnseg import create_attention
from napari_attnseg.attention import mixing
from napari_attnseg.attention.luong import LuongAttention
from napari_attnseg.attention.mixing import SIGMAS, Form, mix, mix_and_spread
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

B, N, M, D, C = 2, 13, 11, 3, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(n: int = N, m: int = M, c: int = C) -> tuple[Tensor, Tensor, Tensor]:
    return drawn(B, n, D, seed=1), drawn(B, m, D, seed=2), drawn(B, m, c, seed=3)


@torch.no_grad()
def slow(q: Tensor, k: Tensor, v: Tensor, form: Form) -> tuple[Tensor, Tensor, Tensor]:
    """Value, spread and W, entry by entry from equations 4, 5 and 7."""
    value = torch.zeros(B, q.shape[1], v.shape[2], dtype=torch.float64)
    spread = torch.zeros(B, dtype=torch.float64)
    weights = torch.zeros(B, q.shape[1], k.shape[1], dtype=torch.float64)
    for b in range(B):
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


# --- the gate -------------------------------------------------------------------------------------


def gate(sigma: str = "softmax", channels: int = 4, **kw) -> LuongAttention:
    torch.manual_seed(3)
    module = LuongAttention(channels, sigma=sigma, **kw).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    return module


def exposed(channels: int = 4, sigma: str = "softmax") -> LuongAttention:
    """Query, key and value as they come: the halves of the context, and the skip."""
    module = LuongAttention(channels, sigma=sigma, split=True).double().eval()
    with torch.no_grad():
        module.query.weight.copy_(torch.eye(channels)[..., None, None])
        module.query.bias.zero_()
    return module


def maps(h: int = 7, w: int = 11, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(drawn(2, channels, h, w, seed=s) for s in (5, 6, 7))  # type: ignore[return-value]


def test_one_position_gets_its_value() -> None:
    skip, key, value = maps(1, 1)
    attended = exposed().attend(skip, torch.cat((key, value), 1))
    torch.testing.assert_close(attended, value)


@pytest.mark.parametrize("sigma", ["softmax", "double"])
def test_constant_values_are_what_everyone_gets(sigma: str) -> None:
    skip, key, value = maps()
    value = value[..., :1, :1].expand_as(value)
    attended = exposed(sigma=sigma).attend(skip, torch.cat((key, value), 1))
    torch.testing.assert_close(attended, value)


@pytest.mark.parametrize("sigma", ["softmax", "double"])
def test_constant_keys_give_the_mean_value(sigma: str) -> None:
    skip, key, value = maps()
    attended = exposed(sigma=sigma).attend(skip, torch.cat((torch.ones_like(key), value), 1))
    torch.testing.assert_close(attended, value.mean((2, 3), keepdim=True).expand_as(value))


def test_a_sigmoid_that_is_shut_adds_nothing_and_an_open_one_the_mean() -> None:
    skip, _, value = maps()
    skip = skip.abs() + 1
    shut, still, wide = (
        exposed(sigma="sigmoid").attend(skip, torch.cat((torch.full_like(skip, k), value), 1))
        for k in (-1e3, 0.0, 1e3)
    )
    mean = value.mean((2, 3), keepdim=True).expand_as(value)
    torch.testing.assert_close(shut, torch.zeros_like(value))
    torch.testing.assert_close(still, mean / 2)
    torch.testing.assert_close(wide, mean)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_order_of_keys_means_nothing_and_order_of_queries_is_kept(sigma: str) -> None:
    skip, context, _ = maps()
    module = gate(sigma)
    before = module(skip, context)
    order = torch.randperm(77, generator=torch.Generator().manual_seed(0))

    def permuted(x: Tensor) -> Tensor:
        return x.flatten(2)[..., order].unflatten(2, (7, 11))

    torch.testing.assert_close(module(skip, permuted(context)), before)
    torch.testing.assert_close(module(permuted(skip), context), permuted(before))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("direction", ["progressive", "cross", "self"])
def test_the_gate_against_the_equations(sigma: str, direction: str) -> None:
    skip, context, _ = maps()
    module = gate(sigma, direction=direction)
    asking, asked = {
        "progressive": (skip, context),
        "cross": (context, skip),
        "self": (skip, skip),
    }[direction]
    q, k, v = (
        torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], x).add(conv.bias[:, None, None])
        for conv, x in ((module.query, asking), (module.key, asked), (module.value, asked))
    )
    flat = (t.flatten(2).mT for t in (q, k, v))
    value, spread, _ = slow(*flat, Form(sigma, 4**-0.5))
    expected = skip + value.mT.unflatten(2, (7, 11))
    torch.testing.assert_close(module(skip, context), expected)
    torch.testing.assert_close(module.train()(skip, context), expected)
    assert float(module.regulariser.detach()) == pytest.approx(float(spread.mean()))
    module.eval()(skip, context)
    assert module.regulariser is None


def test_strength_scales_what_is_added() -> None:
    skip, context, _ = maps()
    module = gate()
    attended = module.attend(skip, context)
    assert torch.equal(module(skip, context, 0.0), skip)
    assert torch.equal(module(skip, context), module(skip, context, 1.0))
    torch.testing.assert_close(module(skip, context, 0.25), skip + 0.25 * attended)


def test_blocks_can_be_made_smaller_while_it_lives() -> None:
    skip, context, _ = maps(7, 11)
    module = gate("sigmoid", block_bytes=1 << 20)
    with torch.no_grad(), Largest() as large:
        before = module(skip, context)
    module.block_bytes = 8 * 77
    with torch.no_grad(), Largest() as small:
        torch.testing.assert_close(module(skip, context), before)
    assert large.numel == 2 * 77 * 77
    assert small.numel == 2 * 4 * 77


def test_a_context_of_another_size_and_width() -> None:
    skip, context = drawn(2, 4, 7, 11), drawn(2, 6, 3, 5, seed=1)
    module = gate(context_channels=6)
    assert module(skip, context).shape == skip.shape
    with pytest.raises(InputError, match="expected the same size when the context asks"):
        gate(context_channels=6, direction="cross")(skip, context)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("direction", ["progressive", "cross", "self"])
def test_what_a_recording_shows(sigma: str, direction: str) -> None:
    skip, context, _ = maps()
    module = torch.nn.ModuleDict({"gate": gate(sigma, direction=direction)})
    plain = module["gate"](skip, context)
    with recording(module, query=(0.45, 0.99)) as tape:
        seen = module["gate"](skip, context)
    assert torch.equal(seen, plain)
    assert [(r.place, r.name, r.kind) for r in tape.records] == [
        ("gate", "received", "spatial"),
        ("gate", "row", "row"),
    ]
    received, row = (r.values for r in tape.records)
    assert received.shape == row.shape == (2, 7, 11)
    assert (received >= 0).all()
    if sigma != "sigmoid":
        torch.testing.assert_close(received.sum((1, 2)), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(row.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    value = module["gate"]._parts(skip, context)[2]
    attended = module["gate"].attend(skip, context)
    by_row = (row.unsqueeze(1) * value).sum((2, 3))  # row (3, 10) of 7 x 11
    torch.testing.assert_close(by_row, attended[..., 3, 10])
    with recording(module) as tape:
        module["gate"](skip, context)
    assert [r.name for r in tape.records] == ["received"]


def test_half_precision_keeps_its_type() -> None:
    skip, context, _ = maps()
    module = gate().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = module.attend(skip.float(), context.float())
    assert rough.dtype == torch.bfloat16
    exact = module.attend(skip.float(), context.float()).detach()
    assert float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_words_for_what_cannot_be() -> None:
    with pytest.raises(InputError, match="got sigma 'tanh', expected one of softmax, sigmoid"):
        create_attention("luong", 4, sigma="tanh")
    with pytest.raises(InputError, match="got direction 'up'"):
        create_attention("luong", 4, direction="up")
    with pytest.raises(InputError, match="a context of twice the channels"):
        create_attention("luong", 4, context_channels=6, split=True)
    with pytest.raises(InputError, match="expected direction 'progressive'"):
        create_attention("luong", 4, direction="cross", split=True)


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
