"""The gate of Luong attention against its equations."""

from __future__ import annotations

import pytest
import torch
from luong_loops import Largest, drawn, slow
from torch import Tensor

from napari_attnseg import create_attention
from napari_attnseg.attention.luong import LuongAttention
from napari_attnseg.attention.mixing import SIGMAS, Form
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError


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
