"""Streaming equals the textbook form at every block size; its backward equals autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from napari_attnseg.attention import functional
from napari_attnseg.attention.functional import Grid

H, W, D, C = 7, 5, 3, 4


def tokens(batch: int, grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)

    def draw(channels: int) -> Tensor:
        t = torch.randn(batch, H * W, channels, generator=g, dtype=torch.float64)
        return t.requires_grad_(grad)

    return draw(D), draw(D), draw(C)


def textbook(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """value, step and received with A in memory; neighbours by index."""
    a = torch.softmax(q @ k.mT * scale, -1)
    step = torch.zeros(q.shape[:2], dtype=q.dtype)
    for i in range(H * W):
        for j in range(H * W):
            y, x, yy, xx = i // W, i % W, j // W, j % W
            if max(abs(y - yy), abs(x - xx)) == 1:
                step[:, i] = torch.maximum(step[:, i], (a[:, i] - a[:, j]).abs().amax(-1).detach())
    return a @ v, step, a.mean(1).detach()


def block_of(rows: int, maps: int = 1) -> int:
    """Bytes that hold ``rows`` image rows of A, or ``maps`` whole maps."""
    return maps * rows * W * H * W * 8


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rows", range(1, H + 1))
def test_streaming_equals_the_textbook_form(batch: int, rows: int) -> None:
    q, k, v = tokens(batch)
    grid = Grid(H, W, 0.6, block_of(rows))
    for got, expected in zip(functional.attend(q, k, v, grid), textbook(q, k, v, 0.6), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slab", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 4, H])
def test_neighbours_are_compared_across_the_parts_that_fit_the_cache(
    slab: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "CPU_SCRATCH", block_of(slab))
    q, k, v = tokens(1)
    grid = Grid(H, W, 0.6, block_of(rows))
    assert grid.slab(torch.empty(1, H, W, H * W, dtype=torch.float64)) == slab
    _, step, _ = functional.attend(q, k, v, grid)
    torch.testing.assert_close(step, textbook(q, k, v, 0.6)[1], atol=1e-12, rtol=0)


def test_v_in_any_order_in_memory() -> None:
    q, k, v = tokens(2)
    turned = v.mT.contiguous().mT
    assert not turned.is_contiguous()
    for rows in (2, H):
        grid = Grid(H, W, 0.6, block_of(rows))
        value = functional.attend(q, k, turned, grid)[0]
        assert value.mT.is_contiguous(), "laid out like a feature map"
        torch.testing.assert_close(value, textbook(q, k, v, 0.6)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("maps", [2, 3, 100])
def test_several_maps_in_one_block(maps: int) -> None:
    q, k, v = tokens(3)
    grid = Grid(H, W, 1.0, block_of(H, maps))
    for got, expected in zip(functional.attend(q, k, v, grid), textbook(q, k, v, 1.0), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_a_block_smaller_than_a_row_still_works() -> None:
    q, k, v = tokens(1)
    tiny, whole = (functional.attend(q, k, v, Grid(H, W, 1.0, b)) for b in (1, 1 << 30))
    for got, expected in zip(tiny, whole, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_thin_maps(size: tuple[int, int]) -> None:
    h, w = size
    x = torch.randn(1, h * w, 2, dtype=torch.float64)
    _, step, received = functional.attend(x, x, x, Grid(h, w, 1.0, 1))
    a = torch.softmax(x @ x.mT, -1).view(h, w, -1)
    for y in range(h):
        for z in range(w):
            near = a[max(0, y - 1) : y + 2, max(0, z - 1) : z + 2]
            expected = (near - a[y, z]).abs().max()
            torch.testing.assert_close(step.view(h, w)[y, z], expected)
    torch.testing.assert_close(received.sum(), torch.ones((), dtype=torch.float64))


def test_weighted_received() -> None:
    q, k, _ = tokens(2)
    weight = torch.rand(2, H * W, dtype=torch.float64)
    a = torch.softmax(q @ k.mT * 0.4, -1)
    expected = torch.einsum("bi,bik->bk", weight, a) / (H * W)
    for rows in (1, 3, H):
        got = functional.weighted_received(q, k, weight, Grid(H, W, 0.4, block_of(rows)))
        torch.testing.assert_close(got, expected, atol=1e-13, rtol=0)


# --- gradients ------------------------------------------------------------------------------------


@pytest.fixture
def no_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row-block backward even for the small maps of a test."""
    monkeypatch.setattr(functional, "DENSE_BYTES", 0)


@pytest.mark.parametrize("rows", [1, 2, 3, H])
@pytest.mark.usefixtures("no_dense")
def test_row_block_backward_passes_gradcheck(rows: int) -> None:
    q, k, v = tokens(2, grad=True)
    grid = Grid(H, W, 0.6, block_of(rows))
    value, step, received = functional.attend(q, k, v, grid)
    assert value.requires_grad
    assert not step.requires_grad
    assert not received.requires_grad
    quick = rows < H  # along random directions; entry by entry for the last
    assert torch.autograd.gradcheck(
        lambda *t: functional.attend(*t, grid)[0], (q, k, v), fast_mode=quick
    )


@pytest.mark.usefixtures("no_dense")
def test_row_block_backward_equals_autograd_of_the_textbook_form() -> None:
    q, k, v = tokens(3, grad=True)
    g = torch.randn(3, H * W, C, dtype=torch.float64)
    expected = torch.autograd.grad((textbook(q, k, v, 0.6)[0] * g).sum(), (q, k, v))
    for maps_or_rows in (block_of(1), block_of(4), block_of(H), block_of(H, 2), block_of(H, 3)):
        value = functional.attend(q, k, v, Grid(H, W, 0.6, maps_or_rows))[0]
        got = torch.autograd.grad((value * g).sum(), (q, k, v))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_both_training_forms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tokens(2, grad=True)
    grid = Grid(H, W, 0.6, block_of(2))
    dense = functional.attend(q, k, v, grid)
    monkeypatch.setattr(functional, "DENSE_BYTES", 0)
    blocks = functional.attend(q, k, v, grid)
    for one, other in zip(dense, blocks, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    assert type(dense[0].grad_fn) is not type(blocks[0].grad_fn)


@pytest.mark.usefixtures("no_dense")
def test_backward_keeps_no_matrix_alive() -> None:
    """What autograd saves for the backward pass is far smaller than A."""
    n = 32 * 32
    q, k, v = (torch.randn(1, n, 4, requires_grad=True) for _ in range(3))
    saved: list[int] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        functional.attend(q, k, v, Grid(32, 32, 1.0))
    assert 0 < sum(saved) < n * n / 10
