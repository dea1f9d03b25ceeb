"""Every neighbourhood against loops over all pairs, on even and odd grids, and its backward."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import noise
from torch import Tensor

from napari_attnseg.attention import fused, neighbourhood
from napari_attnseg.attention.neighbourhood import (
    Blocks,
    Cross,
    Everywhere,
    Lattice,
    Line,
    Neighbourhood,
    Square,
)

FLAT: list[tuple[Neighbourhood, slow.Seen]] = [
    (Everywhere(), slow.everywhere),
    (Line(0), slow.column),
    (Line(1), slow.line),
    (Blocks((3, 3)), slow.block(3)),
    (Blocks((3, 3), (1, 1)), slow.block(3, 1)),
    (Blocks((4, 4), (2, 2)), slow.block(4, 2)),
    (Blocks((9, 9)), slow.everywhere),
    (Lattice((2, 2)), slow.lattice(2)),
    (Lattice((3, 3)), slow.lattice(3)),
    (Square(1), slow.square(1)),
    (Square(5), slow.square(5)),
    (Cross(), slow.cross),
]
VOLUMES: list[Neighbourhood] = [
    Everywhere(),
    Line(0),
    Line(2),
    Blocks((2, 3, 2), (1, 0, 1)),
    Lattice((2, 2, 2)),
    Square(3),
    Cross(),
]


def qkv(*grid: int, batch: int = 2, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return (
        noise(batch, heads, 3, *grid, seed=1),
        noise(batch, heads, 3, *grid, seed=2),
        noise(batch, heads, 4, *grid, seed=3),
    )


@pytest.mark.parametrize(("hood", "seen"), FLAT, ids=[repr(h) for h, _ in FLAT])
@pytest.mark.parametrize("grid", [(5, 7), (1, 4), (6, 6)])
def test_equals_the_loop(hood: Neighbourhood, seen: slow.Seen, grid: tuple[int, int]) -> None:
    q, k, v = qkv(*grid)
    got = hood.mix(q, k, v, 0.6)
    for b, m in product(range(2), range(2)):
        expected = slow.attend(*(t[b, m].numpy() for t in (q, k, v)), seen, scale=0.6)
        np.testing.assert_allclose(got[b, m].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("hood", "seen"), FLAT, ids=[repr(h) for h, _ in FLAT])
def test_a_row_equals_the_loop_and_sums_to_one(hood: Neighbourhood, seen: slow.Seen) -> None:
    q, k, _ = qkv(5, 7)
    for at in ((0, 0), (2, 6), (4, 3)):
        got = hood.row(q, k, at, 0.6)
        expected = slow.row(q[1, 0].numpy(), k[1, 0].numpy(), at, seen, 0.6)
        np.testing.assert_allclose(got[1, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("hood", VOLUMES, ids=repr)
def test_rows_make_the_answer_in_volumes(hood: Neighbourhood) -> None:
    q, k, v = qkv(3, 4, 5)
    a = hood.materialise(q, k, 0.6)
    torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
    expected = torch.einsum("bmij,bmcj->bmci", a, v.flatten(3))
    torch.testing.assert_close(hood.mix(q, k, v, 0.6).flatten(3), expected)
    torch.testing.assert_close(hood.received(q, k, 0.6).flatten(1), a.mean((1, 2)))


@pytest.mark.parametrize("hood", [h for h, _ in FLAT], ids=repr)
def test_gradients_equal_those_of_all_pairs(hood: Neighbourhood) -> None:
    pull = noise(2, 2, 4, 5, 7)

    def gradients(dense: bool) -> tuple[Tensor, ...]:
        q, k, v = (t.requires_grad_() for t in qkv(5, 7))
        if dense:
            out = torch.einsum("bmij,bmcj->bmci", hood.materialise(q, k, 0.6), v.flatten(3))
            out = out.view_as(pull)
        else:
            out = hood.mix(q, k, v, 0.6)
        return torch.autograd.grad((out * pull).sum(), (q, k, v))

    for got, expected in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(got, expected)


def test_keys_of_another_grid_and_of_other_width_are_streamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, (k, v) = noise(2, 2, 3, 5, 7), (noise(2, 2, c, 3, 4) for c in (3, 4))
    whole = Everywhere().mix(q, k, v, 0.6)
    monkeypatch.setattr(fused, "SMALL_BYTES", 0)
    torch.testing.assert_close(Everywhere().mix(q, k, v, 0.6), whole)
    expected = slow.attend(*(t[0, 1].numpy() for t in (q, k, v)), slow.everywhere, scale=0.6)
    np.testing.assert_allclose(whole[0, 1].numpy(), expected, atol=1e-12)


def test_tables_made_while_predicting_serve_training() -> None:
    neighbourhood._layout.cache_clear()
    q, k, v = qkv(5, 7)
    with torch.inference_mode():
        Blocks((3, 3)).mix(q, k, v, 1.0)
        Blocks((3, 3)).received(q.clone(), k.clone(), 1.0)
    out = Blocks((3, 3)).mix(q.requires_grad_(), k, v, 1.0)
    out.sum().backward()
    assert q.grad is not None


def test_shifted_blocks_never_wrap_around() -> None:
    shifted = Blocks((4, 4), (2, 2))
    assert shifted.keys((0, 0), (8, 8)).tolist() == [0, 1, 8, 9]
    assert len(shifted.keys((3, 3), (8, 8))) == 16
    assert 7 not in shifted.keys((0, 0), (8, 8))
