"""Smooth Attention against a slow twin and its own mathematics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import slow_smooth as slow
import torch

from napari_attnseg.attention import smooth
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.smooth import SmoothAttention, neighbour_mean, neighbour_mean_adjoint
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, RULES


def make(
    channels: int, gamma: float = 0.7, dtype: torch.dtype = torch.float64, **kw
) -> SmoothAttention:
    """Random weights (biases too), larger than the default so that attention is uneven."""
    torch.manual_seed(3)
    module = SmoothAttention(channels, **kw).to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
        module.gamma.fill_(gamma)
    return module


# --- slow twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("scale", "key_channels"), [(True, None), (True, 2), (False, 5)])
def test_equals_the_slow_twin(rule: str, scale: bool, key_channels: int | None) -> None:
    h, w, c, batch = 5, 7, 3, 2
    module = make(c, rule=rule, scale=scale, key_channels=key_channels)
    x = torch.randn(batch, c, h, w, dtype=torch.float64)
    attended = module.attend(x)
    threshold = float(attended.step.median()) + 1e-6
    out = module(x, threshold=threshold)
    received = module.received(x, attended, threshold)
    conv = {n: (p.detach().numpy()) for n, p in module.named_parameters()}
    for b in range(batch):
        item = x[b].numpy()
        q, k, v = (
            slow.conv1x1(item, conv[f"{n}.weight"], conv[f"{n}.bias"])
            for n in ("query", "key", "value")
        )
        a = slow.attention(q, k, q.shape[1] ** -0.5 if scale else 1.0)
        step = slow.steps(a, h, w)
        mask = step > threshold
        assert 0 < mask.sum() < mask.size
        rows = slow.smoothed(a, mask) if rule == "authors" else a
        np.testing.assert_allclose(attended.step[b].numpy(), step, atol=1e-12)
        np.testing.assert_allclose(
            attended.value[b].detach().numpy().reshape(c, -1).T, a @ v, atol=1e-12
        )
        np.testing.assert_allclose(attended.received[b].numpy().ravel(), a.mean(0), atol=1e-12)
        np.testing.assert_allclose(
            out[b].detach().numpy(), slow.output(item, a, v, mask, 0.7, rule), atol=1e-12
        )
        np.testing.assert_allclose(received[b].numpy().ravel(), rows.mean(0), atol=1e-12)
        for y, xx in ((0, 0), (2, 3), (h - 1, w - 1), (0, w - 1)):
            row = module.row(x, y, xx, attended, threshold)[b].numpy().ravel()
            np.testing.assert_allclose(row, rows[y * w + xx], atol=1e-12)


def test_float32_equals_the_slow_twin() -> None:
    module = make(4, dtype=torch.float32)
    x = torch.randn(1, 4, 6, 5)
    twin = make(4)
    twin.load_state_dict(module.state_dict())
    got, expected = module.attend(x), twin.attend(x.double())
    for name in ("value", "step", "received"):
        one, other = getattr(got, name).double(), getattr(expected, name)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# --- mathematics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(1, 1), (4, 3)])
def test_constant_input_has_no_steps(rule: str, size: tuple[int, int]) -> None:
    x = torch.full((1, 3, *size), 0.3, dtype=torch.float64)
    module = make(3, rule=rule)
    attended = module.attend(x)
    assert attended.step.eq(0).all()
    plain = module.gate(x, attended, threshold=PLAIN_THRESHOLD)
    assert torch.equal(module.gate(x, attended, threshold=0.0), plain)


def test_a_threshold_of_one_masks_nothing_even_for_one_hot_rows() -> None:
    x = 100.0 * torch.eye(2).view(1, 2, 1, 2)  # each pixel attends to itself alone
    module = SmoothAttention(2)
    with torch.no_grad():
        for conv in (module.query, module.key, module.value):
            conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
            conv.bias.zero_()
        module.gamma.fill_(0.5)
    attended = module.attend(x)
    assert attended.step.eq(1).all()
    assert not module.mask(attended, 1.0).any()
    for rule in RULES:
        expected = x + 0.5 * attended.value
        torch.testing.assert_close(module.gate(x, attended, 1.0, rule), expected)
        torch.testing.assert_close(module.gate(x, attended, PLAIN_THRESHOLD, rule), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("threshold", [0.0, 0.01, 2.0])
def test_gamma_zero_is_the_identity_and_stops_the_attention_gradients(
    rule: str, threshold: float
) -> None:
    module = make(3, gamma=0.0, rule=rule)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    out = module(x, threshold=threshold)
    assert torch.equal(out, x)
    g = torch.randn_like(x)
    out.backward(g)
    for conv in (module.query, module.key, module.value):
        assert conv.weight.grad.eq(0).all()
    with torch.no_grad():
        attended = module.attend(x)
        m = module.mask(attended, threshold).unsqueeze(1).double()
        mean = neighbour_mean(attended.value)
        slope = {
            "paper": attended.value - m * x,
            "authors": (1 - m) * attended.value + m * mean,
            "suppress": (1 - m) * attended.value,
        }[rule]
    torch.testing.assert_close(module.gamma.grad, (g * slope).sum())


def test_a_fresh_module_is_the_identity() -> None:
    x = torch.randn(1, 4, 5, 6)
    assert torch.equal(SmoothAttention(4)(x), x)


def test_everything_masked() -> None:
    module = make(3)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    attended = module.attend(x)
    everything = -1.0
    assert module.mask(attended, everything).all()
    torch.testing.assert_close(
        module.gate(x, attended, everything, "paper", 0.3), 0.3 * attended.value + 0.7 * x
    )
    torch.testing.assert_close(module.gate(x, attended, everything, "paper", 1.0), attended.value)
    torch.testing.assert_close(
        module.gate(x, attended, everything, "authors", 0.3),
        0.3 * neighbour_mean(attended.value) + x,
    )
    assert torch.equal(module.gate(x, attended, everything, "suppress", 0.3), x)


def test_steps_are_bounded_by_the_row_maxima_around() -> None:
    module = make(3)
    h, w = 5, 6
    x = torch.randn(1, 3, h, w, dtype=torch.float64)
    step = module.attend(x).step[0]
    tops = torch.stack(
        [module.row(x, y, xx, rule="paper").max() for y in range(h) for xx in range(w)]
    ).view(1, 1, h, w)
    bound = torch.nn.functional.max_pool2d(tops, 3, 1, 1)[0, 0]
    assert (step >= 0).all()
    assert (step <= bound + 1e-12).all()
    assert (bound <= 1).all()


def test_a_key_bias_has_no_effect() -> None:
    module = make(3)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    before = module(x, threshold=0.05)
    before.sum().backward()
    assert module.key.bias.grad.abs().max() <= 1e-7
    with torch.no_grad():
        module.key.bias.add_(torch.randn(3, dtype=torch.float64))
    torch.testing.assert_close(module(x, threshold=0.05), before)


def test_value_follows_any_permutation_of_pixels_and_step_only_symmetries() -> None:
    module = make(3)
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    attended = module.attend(x)
    order = torch.randperm(25)
    shuffled = module.attend(x.flatten(2)[..., order].view_as(x))
    torch.testing.assert_close(shuffled.value.flatten(2), attended.value.flatten(2)[..., order])
    torch.testing.assert_close(
        shuffled.received.flatten(1), attended.received.flatten(1)[..., order]
    )
    gap = shuffled.step.flatten(1) - attended.step.flatten(1)[..., order]
    assert gap.abs().max() > 1e-3
    moves = [
        lambda t: t.flip(-1),
        lambda t: t.flip(-2),
        lambda t: t.rot90(1, (-2, -1)),
        lambda t: t.mT,
    ]
    for move in moves:
        torch.testing.assert_close(module.attend(move(x)).step, move(attended.step))


def test_items_of_a_batch_are_independent() -> None:
    module = make(3, rule="authors")
    x = torch.randn(3, 3, 4, 5, dtype=torch.float64)
    whole = module(x, threshold=0.1)
    for b in range(3):
        torch.testing.assert_close(whole[b : b + 1], module(x[b : b + 1], threshold=0.1))


def test_masks_shrink_as_the_threshold_grows() -> None:
    module = make(3)
    attended = module.attend(torch.randn(1, 3, 6, 7, dtype=torch.float64))
    masks = [module.mask(attended, t) for t in (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)]
    for lower, higher in pairwise(masks):
        assert (higher <= lower).all()
    value = float(attended.step[0, 2, 3])
    assert not module.mask(attended, value)[0, 2, 3]  # strictly greater


def test_one_threshold_per_item() -> None:
    module = make(3)
    attended = module.attend(torch.randn(2, 3, 4, 5, dtype=torch.float64))
    thresholds = torch.tensor([0.05, 0.4], dtype=torch.float64)
    both = module.mask(attended, thresholds)
    for b in range(2):
        assert torch.equal(both[b], module.mask(attended, float(thresholds[b]))[b])


def test_the_value_is_the_same_with_and_without_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without gradients V's convolution runs strip by strip and in place."""
    monkeypatch.setattr(smooth, "VALUE_STRIP", 3)
    attention = SmoothAttention(5, 2).double()
    x = torch.randn(2, 5, 7, 11, dtype=torch.float64)
    kept = x.clone()
    a = torch.softmax(
        attention.query(x).flatten(2).mT @ attention.key(x).flatten(2) * attention.scale, -1
    )
    expected = (attention.value(x).flatten(2) @ a.mT).view_as(x)
    learning = attention.attend(x).value
    with torch.no_grad():
        value = attention.attend(x).value
    assert learning.requires_grad
    assert value.is_contiguous()
    torch.testing.assert_close(learning, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(value, expected.detach(), atol=1e-12, rtol=0)
    assert torch.equal(x, kept)


def test_forward_is_gate_of_attend() -> None:
    module = make(3, rule="authors", threshold=0.1)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(module(x), module.gate(x, module.attend(x)))
    assert torch.equal(
        module(x, threshold=0.3, rule="paper", gamma=0.2),
        module.gate(x, module.attend(x), 0.3, "paper", 0.2),
    )


# --- options --------------------------------------------------------------------------------------


def test_border_choices_differ_only_at_the_border() -> None:
    value = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    one, other = neighbour_mean(value, "replicate"), neighbour_mean(value, "inside")
    torch.testing.assert_close(one[..., 1:-1, 1:-1], other[..., 1:-1, 1:-1])
    corner = (value[..., 0, 1] + value[..., 1, 0] + value[..., 1, 1]) / 3
    torch.testing.assert_close(other[..., 0, 0], corner)
    corner = (
        3 * value[..., 0, 0] + 2 * value[..., 0, 1] + 2 * value[..., 1, 0] + value[..., 1, 1]
    ) / 8
    torch.testing.assert_close(one[..., 0, 0], corner)
    single = torch.randn(1, 2, 1, 1)
    assert torch.equal(neighbour_mean(single, "inside"), single)


@pytest.mark.parametrize("border", ["replicate", "inside"])
def test_adjoint_of_the_neighbour_mean(border: str) -> None:
    a, b = torch.randn(2, 3, 4, 5, dtype=torch.float64).unbind(0)
    forward = (neighbour_mean(a.unsqueeze(1), border).squeeze(1) * b).sum()
    torch.testing.assert_close(forward, (a * neighbour_mean_adjoint(b, border)).sum())


@pytest.mark.parametrize("border", ["replicate", "inside"])
def test_rows_and_received_agree_under_either_border(border: str) -> None:
    module = make(3, rule="authors", border=border)
    h, w = 3, 4
    x = torch.randn(1, 3, h, w, dtype=torch.float64)
    attended = module.attend(x)
    t = float(attended.step.median())
    rows = torch.stack([module.row(x, y, xx, attended, t) for y in range(h) for xx in range(w)])
    torch.testing.assert_close(module.received(x, attended, t), rows.mean(0))
    mixed = torch.einsum("nbhw,bchw->bcn", rows, module.value(x)).view_as(x)
    torch.testing.assert_close(module.gate(x, attended, t), 0.7 * mixed + x)


def test_paper_and_suppress_do_not_alter_attention() -> None:
    module = make(3)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    attended = module.attend(x)
    for rule in ("paper", "suppress"):
        assert module.received(x, attended, 0.0, rule) is attended.received
        assert torch.equal(module.row(x, 1, 2, attended, 0.0, rule), module.row(x, 1, 2))


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"rule": "smooth"}, "expected one of paper, authors, suppress"),
        ({"border": "wrap"}, "expected one of replicate, inside"),
        ({"threshold": -0.1}, "got threshold -0.1"),
        ({"threshold": float("nan")}, "got threshold nan"),
    ],
)
def test_bad_options_are_refused(kw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SmoothAttention(4, **kw)


def test_bad_calls_are_refused() -> None:
    module = SmoothAttention(2)
    x = torch.randn(1, 2, 3, 4)
    with pytest.raises(InputError, match=r"got position \(3, 0\), expected one inside 3 x 4"):
        module.row(x, 3, 0)
    with pytest.raises(InputError, match="got rule 'none'"):
        module.gate(x, module.attend(x), rule="none")


def test_tunables_carry_the_trained_values() -> None:
    module = make(2, gamma=-3.0, rule="authors", threshold=0.15)
    by_name = {t.name: t for t in module.tunables}
    assert by_name["threshold"].default == 0.15
    assert by_name["rule"].default == "authors"
    assert by_name["rule"].choices == RULES
    gamma = by_name["gamma"]
    assert gamma.minimum <= gamma.default == -3.0 <= gamma.maximum
    assert {t.stage for t in module.tunables} == {"gate"}


@pytest.mark.parametrize("border", ["replicate", "inside"])
@pytest.mark.parametrize("rule", RULES)
def test_materialised_rows_make_the_answer(rule: str, border: str) -> None:
    module = make(3, rule=rule, border=border, threshold=0.3)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        assert module.mask(module.attend(x)).double().mean() not in (0.0, 1.0)
        a = module.operator(x)
        torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
        mixed = torch.einsum("bmij,bmcj->bmci", a, module.values(x))
        torch.testing.assert_close(module.collect(mixed, x), module(x))


def test_several_positions_may_be_asked_for() -> None:
    module, x = make(3), torch.randn(1, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad(), recording(module, queries=[(0.0, 0.0), (0.99, 0.5)]) as tape:
        module(x)
    rows = [r for r in tape.records if r.name == "row"]
    assert [r.query for r in rows] == [0, 1]
    torch.testing.assert_close(rows[1].values, module.row(x, 3, 2))
