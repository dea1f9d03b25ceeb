"""What mathematics demands of CSPN and DySPN beyond single cases: exact support, symmetry,
adjoints, bounds; and the released code's own way of indexing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.refinement import Anchors, Refinement, create_refinement
from napari_attnseg.refinement.official import to_destination

BOTH = pytest.mark.parametrize("name", ["cspn", "dyspn"])
KW = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def a_case(name: str, h: int, w: int, iterations: int = 6, **options):
    """A refinement, random affinity of both signs, random attention; two images."""
    refinement = create_refinement(name, iterations=iterations, **options)
    affinity = torch.randn(2, refinement.channels, h, w, **KW)
    attention = None
    if refinement.needs_attention:
        attention = torch.rand(2, iterations, len(refinement.rings) + 1, h, w, **KW)
    return refinement, affinity, attention


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_support_of_one_pixel_is_exactly_its_ball(name: str, steps: int) -> None:
    """9 to 169 pixels with CSPN, 49 to 37 x 37 with DySPN."""
    refinement, affinity, attention = a_case(name, 41, 43, steps)
    h0 = torch.zeros(2, 1, 41, 43, **KW)
    h0[:, :, 20, 21] = 1
    felt = refinement.refine(h0, affinity, attention) != 0
    radius = refinement.reach * steps
    ball = torch.zeros_like(felt)
    ball[..., 20 - radius : 21 + radius, 21 - radius : 22 + radius] = True
    assert torch.equal(felt, ball)
    assert int(ball[0].sum()) == (2 * radius + 1) ** 2


@BOTH
def test_without_affinity_nothing_moves(name: str) -> None:
    refinement, affinity, attention = a_case(name, 7, 11)
    h0 = torch.randn(2, 3, 7, 11, **KW)
    assert torch.allclose(refinement.refine(h0, affinity * 0, attention), h0, atol=1e-14)


@BOTH
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_come_through(name: str, turns: int) -> None:
    refinement, affinity, attention = a_case(name, 7, 11)
    h0 = torch.randn(2, 3, 7, 11, **KW)

    def turned(offset: tuple[int, ...]) -> tuple[int, ...]:
        y, x = offset
        for _ in range(turns):
            y, x = -x, y  # as rot90 moves (row, column)
        return y, x

    order = [0] * refinement.channels
    for k, offset in enumerate(refinement.offsets):
        order[refinement.offsets.index(turned(offset))] = k
    spun = [torch.rot90(v, turns, (-2, -1)) for v in (h0, affinity)]
    rings = None if attention is None else torch.rot90(attention, turns, (-2, -1))
    out = refinement.refine(spun[0], spun[1][:, order], rings)
    wanted = torch.rot90(refinement.refine(h0, affinity, attention), turns, (-2, -1))
    assert torch.allclose(out, wanted, atol=1e-11)


def matrix(refinement: Refinement, affinity: Tensor, attention: Tensor | None) -> Tensor:
    """The linear map of the first image's answer, column by column: (pixels, pixels)."""
    h, w = affinity.shape[-2:]
    units = torch.eye(h * w, **KW).view(1, h * w, h, w)
    rings = None if attention is None else attention[:1]
    return refinement.refine(units, affinity[:1], rings)[0].flatten(1).T


@BOTH
def test_the_gradient_is_the_adjoint(name: str) -> None:
    """<M h, u> = <h, M' u>, with M' from the gradient and M from unit pixels."""
    refinement, affinity, attention = a_case(name, 5, 7)
    m = matrix(refinement, affinity, attention)
    h0, u = torch.randn(1, 1, 5, 7, **KW), torch.randn(1, 1, 5, 7, **KW)
    h0.requires_grad_(True)
    rings = None if attention is None else attention[:1]
    out = refinement.refine(h0, affinity[:1], rings)
    assert torch.allclose(out.detach().flatten(), m @ h0.detach().flatten(), atol=1e-11)
    (back,) = torch.autograd.grad((out * u).sum(), h0)
    assert torch.allclose(back.flatten(), m.T @ u.flatten(), atol=1e-11)
    assert torch.allclose(m.sum(1), torch.ones(35, **KW))  # every row of weights sums to 1


@BOTH
def test_positive_weights_keep_the_range(name: str) -> None:
    refinement, affinity, attention = a_case(name, 9, 13)
    h0 = torch.randn(2, 3, 9, 13, **KW)
    steps = [h0, *refinement.steps(h0, affinity.abs(), attention)]
    for before, after in pairwise(steps):
        assert after.max() <= max(before.max(), h0.max()) + 1e-12
        assert after.min() >= min(before.min(), h0.min()) - 1e-12


def test_every_step_grows_within_its_bound() -> None:
    """|H_t+1| <= |H_t| + 2 |H_0|, and signed weights do make it grow."""
    refinement, affinity, _ = a_case("cspn", 31, 29)
    h0 = torch.randn(2, 1, 31, 29, **KW).sign()
    sizes = [float(x.abs().max()) for x in (h0, *refinement.steps(h0, affinity))]
    assert all(b <= a + 2 * sizes[0] for a, b in pairwise(sizes))
    assert sizes[-1] > 1.5 * sizes[0]
    *_, worst = refinement.steps(h0, -affinity.abs())
    assert float(worst.abs().max()) <= 13


@pytest.mark.parametrize("kernel", [5, 7])
def test_wider_neighbourhoods_of_cspn_reach_further(kernel: int) -> None:
    refinement, affinity, _ = a_case("cspn", 31, 29, 2, kernel=kernel)
    assert refinement.channels == kernel**2 - 1
    h0 = torch.zeros(2, 1, 31, 29, **KW)
    h0[:, :, 15, 14] = 1
    felt = (refinement.refine(h0, affinity) != 0).nonzero()
    assert felt[:, 2].min() == 15 - 2 * (kernel // 2)
    assert felt[:, 3].max() == 14 + 2 * (kernel // 2)


@pytest.mark.parametrize(("name", "kernel"), [("cspn", 3), ("cspn", 5), ("dyspn", 7)])
def test_uniform_weights_on_stripes_and_constants(name: str, kernel: int) -> None:
    """One step on rows +1, -1, ...: -1/2 with 3 x 3 (of 8 neighbours 2 stand in the row and 6 in
    rows of the other sign), and so on for k x k."""
    reach = kernel // 2
    signs = [(-1) ** abs(i) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    gain = (sum(signs) - 1) / (kernel**2 - 1)
    refinement, affinity, attention = a_case(name, 24, 26, 1, kernel=kernel, eps=1e-12)
    rows = torch.tensor([1.0, -1.0], **KW).repeat(12)[:, None].expand(2, 1, 24, 26)
    if attention is not None:
        attention = torch.ones_like(attention)
        attention[:, :, 0] = 0
    out = refinement.refine(rows, torch.ones_like(affinity), attention)
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(out[inner], gain * rows[inner], atol=1e-9)
    ones = torch.ones_like(rows)
    kept = refinement.refine(ones, torch.ones_like(affinity), attention)
    assert torch.allclose(kept, ones, atol=1e-12)


@BOTH
@pytest.mark.parametrize("tile", [None, 5])
def test_maps_with_their_own_affinity_are_refined_one_by_one(name: str, tile: int | None) -> None:
    many, affinity, attention = a_case(name, 7, 11, 2, maps=3)
    single = create_refinement(name, iterations=2)
    h0 = torch.randn(2, 3, 7, 11, **KW)
    weight = (torch.rand(2, 1, 7, 11, **KW) < 0.2).double()
    held = torch.randn(2, 3, 7, 11, **KW)
    out = many.refine(h0, affinity, attention, Anchors(held, weight), tile=tile)
    assert torch.equal(out[weight.expand_as(out) == 1], held[weight.expand_as(out) == 1])
    size = single.channels
    for k in range(3):
        own = affinity[:, k * size : (k + 1) * size]
        anchors = Anchors(held[:, k : k + 1], weight)
        alone = single.refine(h0[:, k : k + 1], own, attention, anchors)
        assert torch.allclose(out[:, k : k + 1], alone, atol=1e-12)


def as_released(h0: Tensor, source: Tensor, steps: int) -> Tensor:
    """The released code's way: channel and map are padded alike, so that a weight travels with
    the pixel it belongs to; sums are taken after that."""
    order = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    h, w = h0.shape[-2:]

    def shifted(v: Tensor, offset: tuple[int, int]) -> Tensor:
        """v at p - offset, zero outside: what stands at q goes to q + offset."""
        i, j = offset
        return F.pad(v, (1, 1, 1, 1))[..., 1 - i : 1 - i + h, 1 - j : 1 - j + w]

    weights = [shifted(source[:, k : k + 1], o) for k, o in enumerate(order)]
    whole = torch.stack(weights).abs().sum(0)
    kappa = [weight / whole for weight in weights]
    rest = 1 - torch.stack(kappa).sum(0)
    x = h0
    for _ in range(steps):
        x = sum(k * shifted(x, o) for k, o in zip(kappa, order, strict=True)) + rest * h0
    return x


def test_affinities_of_the_released_code_give_its_answer() -> None:
    source, h0 = torch.randn(2, 8, 7, 11, **KW), torch.randn(2, 3, 7, 11, **KW)
    ours = create_refinement("cspn", eps=0.0).refine(h0, to_destination(source))
    assert torch.allclose(ours, as_released(h0, source, 6), atol=1e-11)
    as_it_stands = create_refinement("cspn", eps=0.0).refine(h0, source)
    assert not torch.allclose(as_it_stands, as_released(h0, source, 6), atol=0.1)
