"""Axial attention against loops along lines, plain and position-sensitive, and its reach."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, filled, fresh, noise, parameters, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.attention.layers import Norm
from napari_attnseg.errors import InputError

H, W = 5, 7


def plain_pass(x: np.ndarray, p: dict[str, np.ndarray], seen: slow.Seen) -> np.ndarray:
    q, k, v = (slow.project(x, p[f"{n}.weight"]) for n in ("query", "key", "value"))
    return slow.project(slow.attend(q, k, v, seen, 2), p["out.weight"], p["out.bias"])


def position_pass(
    x: np.ndarray, p: dict[str, np.ndarray], axis: int, span: int, heads: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Answer and weights (heads, H, W, length)."""
    e = x.shape[0] // heads
    d = e // 2
    y = slow.normed(x, slow.under("project", p), relu=False)
    length = x.shape[1 + axis]
    out, weights = np.zeros_like(x), np.zeros((heads, *x.shape[1:], length))
    table = p["relative"]
    for m in range(heads):
        part = y[m * (2 * d + e) : (m + 1) * (2 * d + e)]
        for at in product(range(H), range(W)):
            line = [(n, at[1]) if axis == 0 else (at[0], n) for n in range(length)]
            qo = part[:d, at[0], at[1]]
            kinds = np.zeros((3, length))
            for n, other in enumerate(line):
                r = table[min(max(n - at[axis], 1 - span), span - 1) + span - 1]
                kp = part[d : 2 * d, other[0], other[1]]
                kinds[:, n] = qo @ kp, qo @ r[:d], kp @ r[d : 2 * d]
            for kind in range(3):
                norm = slow.under(f"norms.{kind}", p)
                one = {n: v[m : m + 1] for n, v in norm.items() if v.ndim}
                kinds[kind] = slow.normalised(kinds[kind][None], one, relu=False)[0]
            a = slow.softmax(kinds.sum(0))
            weights[m, at[0], at[1]] = a
            for n, other in enumerate(line):
                r = table[min(max(n - at[axis], 1 - span), span - 1) + span - 1]
                value = part[2 * d :, other[0], other[1]] + r[2 * d :]
                out[m * e : m * e + e, at[0], at[1]] += a[n] * value
    return slow.normalised(out, slow.under("finish", p), relu=False), weights


@pytest.mark.parametrize("residual", [False, True])
def test_plain_equals_the_slow_twin(residual: bool) -> None:
    module, x = fresh("axial", heads=2, residual=residual), noise(1, 8, H, W)
    p, item = arrays(module), x[0].numpy()
    first = plain_pass(item, slow.under("passes.0", p), slow.column)
    expected = plain_pass(first, slow.under("passes.1", p), slow.line) + residual * item
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("span", [3, 64])
def test_position_sensitive_equals_the_slow_twin(span: int) -> None:
    module = fresh("axial", heads=2, variant="position", span=span)
    x = noise(1, 8, H, W)
    p = arrays(module)
    first, columns = position_pass(x[0].numpy(), slow.under("passes.0", p), 0, span)
    expected, rows = position_pass(first, slow.under("passes.1", p), 1, span)
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)
    last = rows_of(module, (3, 4), x, name="row last")[0]
    np.testing.assert_allclose(last[:, 3], rows[:, 3, 4], atol=1e-12)
    assert last[:, [0, 1, 2, 4]].abs().max() == 0
    both = np.einsum("n,kn->kn", rows[:, 3, 4].mean(0), columns[:, 3].mean(0).T)
    np.testing.assert_allclose(rows_of(module, (3, 4), x)[0], both, atol=1e-12)


@pytest.mark.parametrize("variant", ["plain", "position"])
def test_rows_of_all_passes_are_rows_of_the_operator(variant: str) -> None:
    module, x = fresh("axial", heads=2, variant=variant), noise(2, 8, 3, 4)
    with torch.no_grad():
        a = module.operator(x).mean(1)
    for at, index in (((0, 3), 3), ((2, 1), 9)):
        torch.testing.assert_close(rows_of(module, at, x).flatten(1), a[:, index])


@pytest.mark.parametrize("variant", ["plain", "position"])
def test_one_pass_reaches_a_line_and_both_everything(variant: str) -> None:
    module, x = fresh("axial", variant=variant), noise(1, 8, H, W)
    column = support(module.passes[0], (2, 3), x)
    assert column.sum() == H
    assert column[:, 3].all()
    assert support(module, (2, 3), x).all()


@pytest.mark.parametrize("train", [False, True])
def test_normalising_one_item_that_lies_channel_by_channel(train: bool) -> None:
    """Input and gradient in two memory orders: the answer of the library for one item is wrong."""
    norm = filled(Norm(8)).train(train)
    x, pull = noise(1, 8, H, W), noise(1, 8, H, W, seed=2)
    shape = (1, -1, 1, 1)
    mean = x.mean((0, 2, 3), keepdim=True) if train else norm.running_mean.view(shape)
    var = x.var((0, 2, 3), keepdim=True, correction=0) if train else norm.running_var.view(shape)
    factor = norm.weight.detach().view(shape) / (var + norm.eps).sqrt()
    expected = factor * pull
    if train:
        z = (x - mean) / (var + norm.eps).sqrt()
        own = pull.mean((0, 2, 3), keepdim=True)
        expected = factor * (pull - own - z * (pull * z).mean((0, 2, 3), keepdim=True))

    def together(t: torch.Tensor) -> torch.Tensor:
        return t.flatten(2).mT.contiguous().mT.unflatten(2, (H, W))

    for a in (x, together(x)):
        for b in (pull, together(pull)):
            a = a.detach().requires_grad_()
            (got,) = torch.autograd.grad(norm(a), a, b)
            torch.testing.assert_close(got, expected)


def test_columns_and_rows_are_not_the_same() -> None:
    """A well-known implementation reshapes in place of exchanging axes: both then mix alike."""
    module, x = fresh("axial"), noise(1, 8, 6, 6)
    one, other = module.passes
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x.mT).mT)
    assert (one(x) - other(x)).abs().max() > 1e-3


def test_parameters_and_options() -> None:
    assert parameters("axial") == 32_896
    assert create_attention("axial", 6).passes[0].heads == 6
    with pytest.raises(InputError, match="got heads=5, expected a divisor of the 8 channels"):
        create_attention("axial", 8, heads=5)
    with pytest.raises(InputError, match="got span=0"):
        create_attention("axial", 8, span=0)
