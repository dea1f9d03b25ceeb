"""Non-local blocks in their four modes against loops; sorting and association against N x N."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of

from napari_attnseg import create_attention
from napari_attnseg.attention.nonlocal_block import MODES, relu_sums
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

H, W = 5, 7


def weights(p: dict[str, np.ndarray], x: np.ndarray, source: np.ndarray, mode: str) -> np.ndarray:
    """f / C of all pairs, (N, keys), from equations 2 to 6."""
    if mode == "gaussian":
        theta, phi = x, source
    else:
        theta, phi = (
            slow.project(a, p[f"a.{n}.weight"], p[f"a.{n}.bias"])
            for n, a in (("theta", x), ("phi", source))
        )
    t, f = theta.reshape(theta.shape[0], -1), phi.reshape(phi.shape[0], -1)
    out = np.zeros((t.shape[1], f.shape[1]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if mode == "concatenation":
                both = np.concatenate([t[:, i], f[:, j]])
                out[i, j] = max(0.0, float(p["a.w"].reshape(-1) @ both))
            else:
                out[i, j] = t[:, i] @ f[:, j]
        if mode in ("embedded", "gaussian"):
            out[i] = slow.softmax(out[i])
    return out if mode in ("embedded", "gaussian") else out / out.shape[1]


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_slow_twin(mode: str, pool: int) -> None:
    module, x = fresh("nonlocal", 4, mode=mode, pool=pool), noise(1, 4, H, W)
    p, item = arrays(module), x[0].numpy()
    source = item
    if pool == 2:
        cells = [
            [item[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for j in range(4)] for i in range(3)
        ]
        source = np.stack([np.stack([c.max((1, 2)) for c in row], -1) for row in cells], 1)
    a = weights(p, item, source, mode)
    g = slow.project(source, p["a.g.weight"], p["a.g.bias"])
    mixed = (g.reshape(g.shape[0], -1) @ a.T).reshape(-1, H, W)
    expected = item + slow.project(mixed, p["a.w_z.weight"], p["a.w_z.bias"])
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-11)
        row = rows_of(module, (3, 4), x)[0].numpy()
        np.testing.assert_allclose(row.ravel(), a[3 * W + 4], atol=1e-12)
        with recording(module) as tape:
            module(x)
    np.testing.assert_allclose(tape.records[0].values[0].numpy().ravel(), a.mean(0), atol=1e-12)
    assert tape.records[0].kind == ("signed" if mode == "dot" else "spatial")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_the_operator_makes_the_answer(mode: str, ndim: int) -> None:
    module = fresh("nonlocal", 4, mode=mode, ndim=ndim)
    x = noise(2, 4, *(3, 4, 2)[:ndim])
    mixed = torch.einsum("bmij,bmcj->bmci", module.operator(x), module.values(x))
    torch.testing.assert_close(module.collect(mixed, x), module(x))


def test_sums_by_sorting_equal_all_pairs_with_gradients() -> None:
    a, b, g = noise(2, 9), noise(2, 13, seed=2), noise(2, 3, 13, seed=3)
    b[:, 4] = b[:, 5]  # equal keys
    a[:, 0] = -b[:, 5]  # exactly at the corner of the ReLU
    a[:, 1], a[:, 2] = 10.0, -10.0  # sees all, sees none
    parts = [t.requires_grad_() for t in (a, b, g)]
    dense = torch.einsum("bij,bdj->bdi", torch.relu(a[:, :, None] + b[:, None]), g)
    fast = relu_sums(a, b, g)
    torch.testing.assert_close(fast, dense)
    assert (fast[:, :, 2] == 0).all()
    pull = noise(2, 3, 9, seed=5)
    pull[:, :, 0] = 0  # no derivative at the corner
    for got, expected in zip(
        torch.autograd.grad((fast * pull).sum(), parts),
        torch.autograd.grad((dense * pull).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_sums_by_sorting_keep_single_precision() -> None:
    a, b, g = noise(1, 500), noise(1, 4000, seed=2), noise(1, 2, 4000, seed=3)
    exact = relu_sums(a, b, g)
    single = relu_sums(a.float(), b.float(), g.float())
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() / exact.abs().max() < 1e-5


def test_a_zero_query_gathers_the_mean() -> None:
    module, x = fresh("nonlocal", 4), noise(1, 4, H, W)
    with torch.no_grad():
        module.a.theta.weight.zero_()
        module.a.theta.bias.zero_()
        mean = module.a.w_z(module.a.g(x).mean((2, 3), keepdim=True))
        torch.testing.assert_close(module(x), x + mean)


@pytest.mark.parametrize("mode", MODES)
def test_where_pixels_lie_does_not_matter(mode: str) -> None:
    module, x = fresh("nonlocal", 4, mode=mode), noise(1, 4, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(moved).flatten(2), module(x).flatten(2)[..., order])


def test_parameters_and_options() -> None:
    assert parameters("nonlocal") == parameters("nonlocal", mode="dot") == 8352
    assert parameters("nonlocal", mode="gaussian") == 8352 - 2 * (64 * 32 + 32)
    assert parameters("nonlocal", mode="concatenation") == 8352 + 64
    with pytest.raises(InputError, match="got mode='max'"):
        create_attention("nonlocal", 4, mode="max")
    with pytest.raises(InputError, match="got pool=0"):
        create_attention("nonlocal", 4, pool=0)


def test_the_former_name_is_understood() -> None:
    assert type(create_attention("self_attention", 4)) is type(create_attention("nonlocal", 4))
