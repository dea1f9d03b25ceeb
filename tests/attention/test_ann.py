"""Asymmetric non-local blocks against a loop over pooled points; what pooling makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, filled, fresh, noise, parameters, rows_of

from napari_attnseg import create_attention
from napari_attnseg.attention.neighbourhood import Everywhere
from napari_attnseg.errors import InputError

H, W = 5, 7


def cells(grid: tuple[int, int], sizes: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """All cells of the pyramid: of cell a of n the positions from floor(a L / n) to
    ceil((a + 1) L / n)."""
    out = []
    for n in sizes:
        for i in range(n):
            for j in range(n):
                out.append(
                    tuple(
                        slice(int(np.floor(a * m / n)), int(np.ceil((a + 1) * m / n)))
                        for a, m in ((i, grid[0]), (j, grid[1]))
                    )
                )
    return out  # type: ignore[return-value]


@pytest.mark.parametrize("merge", ["concat", "add"])
@pytest.mark.parametrize("variant", ["apnb", "afnb"])
def test_equals_the_slow_twin(variant: str, merge: str) -> None:
    module = filled(
        create_attention("ann", 8, context_channels=6, variant=variant, merge=merge, sizes="1-3-8")
    )
    x, shallow = noise(1, 8, H, W), noise(1, 6, 9, 4)
    p, item = arrays(module), x[0].numpy()
    source = item if variant == "apnb" else shallow[0].numpy()
    where = cells(source.shape[1:], (1, 3, 8))  # type: ignore[arg-type]
    q = slow.normed(item, slow.under("query", p))
    k = slow.normed(source, slow.under("query" if variant == "apnb" else "key", p))
    v = slow.project(source, p["value.weight"])
    pooled_k, pooled_v = (np.stack([m[:, a, b].mean((1, 2)) for a, b in where]) for m in (k, v))
    mixed, spread = np.zeros((4, H, W)), np.zeros(source.shape[1:])
    for y in range(H):
        for i in range(W):
            a = slow.softmax(pooled_k @ q[:, y, i] / 2.0)
            mixed[:, y, i] = a @ pooled_v
            if (y, i) == (3, 2):
                for weight, (rows, columns) in zip(a, where, strict=True):
                    spread[rows, columns] += weight / spread[rows, columns].size
    z = slow.project(mixed, p["out.weight"], p["out.bias"])
    both = np.concatenate([z, item])
    expected = item + z if merge == "add" else slow.normed(both, slow.under("join", p))
    args = (x,) if variant == "apnb" else (x, shallow)
    with torch.no_grad():
        np.testing.assert_allclose(module(*args)[0].numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(rows_of(module, (3, 2), *args)[0], spread, atol=1e-12)


def test_no_pooling_is_attention_over_all_positions() -> None:
    x = noise(2, 8, H, W)
    module = fresh("ann", sizes="", merge="add")
    with torch.no_grad():
        q = module.query(x).unsqueeze(1)
        v = module.value(x).unsqueeze(1)
        full = Everywhere().mix(q, q, v, q.shape[2] ** -0.5).flatten(1, 2)
        torch.testing.assert_close(module(x), x + module.out(full))


def test_one_cell_gathers_the_mean() -> None:
    module, x = fresh("ann", sizes="1", merge="add"), noise(1, 8, H, W)
    mean = module.out(module.value(x).mean((2, 3), keepdim=True))
    torch.testing.assert_close(module(x), x + mean)


def test_the_operator_has_the_rank_of_the_pyramid() -> None:
    module, x = fresh("ann", sizes="1-2"), noise(2, 8, H, W)
    a = module.operator(x)
    torch.testing.assert_close(a.sum(-1), torch.ones(2, 1, H * W, dtype=torch.float64))
    assert module.rank == 5
    assert int(torch.linalg.matrix_rank(a).max()) <= 5
    assert create_attention("ann", 8).rank == 110
    assert create_attention("ann", 8, ndim=3).rank == 1 + 27 + 216 + 512


def test_added_it_begins_as_the_identity() -> None:
    x = noise(1, 8, H, W)
    assert torch.equal(create_attention("ann", 8, merge="add").double().eval()(x), x)


def test_parameters_and_options() -> None:
    assert parameters("ann", merge="add") == 6272
    with pytest.raises(InputError, match="got sizes='1,3', expected numbers such as 1-3-6-8"):
        create_attention("ann", 8, sizes="1,3")
