"""CSPN and DySPN against loops, cases by hand and what mathematics demands of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_propagation import slow_cspn, slow_dyspn
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import Anchors, create_refinement, list_refinements
from napari_attnseg.refinement.official import to_destination

STEPS = 6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def random_case(
    name: str, shape: tuple[int, ...] = (2, 3, 7, 11), ndim: int = 2, dtype=torch.float64, **kw
) -> tuple:
    """A refinement with logits, affinity and attention for it."""
    refinement = create_refinement(name, ndim=ndim, **kw)
    logits = torch.randn(shape, dtype=dtype) * 3
    affinity = torch.randn(shape[0], refinement.channels, *shape[2:], dtype=dtype)
    attention = None
    if refinement.needs_attention:
        size = (shape[0], refinement.iterations, len(refinement.rings) + 1, *shape[2:])
        attention = torch.rand(size, dtype=dtype)
    return refinement, logits, affinity, attention


def last(case: tuple, logits: Tensor | None = None) -> Tensor:
    refinement, h0, affinity, attention = case
    return list(refinement.steps(h0 if logits is None else logits, affinity, attention))[-1]


BOTH = pytest.mark.parametrize("name", ["cspn", "dyspn"])


def test_both_are_listed() -> None:
    assert list_refinements() == ["cspn", "dyspn"]


@pytest.mark.parametrize("norm", ["8sum", "8sum_abs"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_cspn_equals_the_loop(norm: str, kernel: int) -> None:
    case = random_case("cspn", iterations=3, norm=norm, kernel=kernel)
    slow = slow_cspn(case[1].numpy(), case[2].numpy(), 3, norm, kernel)
    assert np.allclose(last(case).numpy(), slow, atol=1e-12)


def test_dyspn_equals_the_loop() -> None:
    case = random_case("dyspn", iterations=3)
    slow = slow_dyspn(case[1].numpy(), case[2].numpy(), case[3].numpy())
    assert np.allclose(last(case).numpy(), slow, atol=1e-12)


@BOTH
@pytest.mark.parametrize("tile", [None, 5])
def test_without_gradients_it_is_the_same(name: str, tile: int | None) -> None:
    """Prediction takes a form of its own, in place."""
    case = random_case(name, iterations=3)
    with torch.no_grad():
        light = case[0].refine(*case[1:], tile=tile)
    assert torch.allclose(light, last(case), atol=1e-12)


@pytest.mark.parametrize(
    ("sign", "t", "corner", "edge", "centre"),
    [
        (1, 1, 1 / 3, 1 / 5, 0),
        (1, 2, 2 / 15, 16 / 75, 4 / 15),
        (-1, 1, -1 / 3, -1 / 5, 2),
        (-1, 2, -8 / 15, -14 / 75, 34 / 15),
    ],
)
def test_a_delta_by_hand(sign: int, t: int, corner: float, edge: float, centre: float) -> None:
    h0 = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    h0[0, 0, 1, 1] = 1
    affinity = torch.full((1, 8, 3, 3), float(sign), dtype=torch.float64)
    *_, out = create_refinement("cspn", iterations=t).steps(h0, affinity)
    row = torch.tensor([corner, edge, corner])
    wanted = torch.stack([row, torch.tensor([edge, centre, edge]), row]).double()
    assert torch.allclose(out[0, 0], wanted, atol=1e-7)


def test_the_golden_ramp() -> None:
    h0 = torch.arange(9, dtype=torch.float64).view(1, 1, 3, 3)
    a = torch.tensor([1, -1, 2, 0, 0.5, -0.5, 1, -2], dtype=torch.float64)
    steps = list(create_refinement("cspn").steps(h0, a.view(1, 8, 1, 1).expand(1, 8, 3, 3)))
    first = [[-9 / 7, -0.375, 10 / 3], [28 / 13, 2.6875, 37 / 7], [41 / 7, 6, 7.5]]
    sixth = [
        [-0.827788, -0.477150, 3.780722],
        [2.050235, 3.181716, 4.456334],
        [5.060608, 6.106415, 6.829428],
    ]
    assert torch.allclose(steps[0][0, 0], torch.tensor(first).double(), atol=1e-6)
    assert torch.allclose(steps[5][0, 0], torch.tensor(sixth).double(), atol=1e-6)


def test_no_affinity_is_the_identity() -> None:
    refinement, h0, affinity, _ = random_case("cspn")
    assert torch.equal(last((refinement, h0, affinity * 0, None)), h0)


@BOTH
def test_constants_stay_and_shifts_commute(name: str) -> None:
    case = random_case(name)
    constant = torch.full_like(case[1], -4.25)
    assert torch.allclose(last(case, constant), constant, atol=1e-12)
    assert torch.allclose(last(case, case[1] + 2.5), last(case) + 2.5, atol=1e-11)


@BOTH
def test_linear_in_the_coarse_map(name: str) -> None:
    case = random_case(name)
    other = torch.randn_like(case[1])
    both = last(case, 2 * case[1] - 3 * other)
    assert torch.allclose(both, 2 * last(case) - 3 * last(case, other), atol=1e-11)


@BOTH
def test_classes_and_images_are_independent(name: str) -> None:
    refinement, h0, affinity, attention = random_case(name)
    order = [2, 0, 1]
    whole = last((refinement, h0, affinity, attention))
    assert torch.allclose(last((refinement, h0[:, order], affinity, attention)), whole[:, order])
    one = None if attention is None else attention[1:]
    assert torch.allclose(last((refinement, h0[1:], affinity[1:], one)), whole[1:])


def test_the_size_of_the_affinity_does_not_matter() -> None:
    refinement, h0, affinity, _ = random_case("cspn", eps=1e-12)
    scaled = last((refinement, h0, affinity * 7.5, None))
    assert torch.allclose(scaled, last((refinement, h0, affinity, None)), atol=1e-9)


@BOTH
@pytest.mark.parametrize("axis", [2, 3])
def test_flips_come_through(name: str, axis: int) -> None:
    refinement, h0, affinity, attention = random_case(name)
    flipped = [
        tuple(-v if i == axis - 2 else v for i, v in enumerate(o)) for o in refinement.offsets
    ]
    order = [refinement.offsets.index(o) for o in flipped]
    turned = None if attention is None else attention.flip(axis + 1)
    out = last((refinement, h0.flip(axis), affinity.flip(axis)[:, order], turned))
    assert torch.allclose(out.flip(axis), last((refinement, h0, affinity, attention)), atol=1e-12)


@BOTH
def test_one_pixel_reaches_exactly_its_ball(name: str) -> None:
    """The test that catches a fold after an unfold, which sends every product back home."""
    side, centre = 45, 22
    refinement, h0, affinity, attention = random_case(name, (1, 1, side, side))
    positive = (refinement, h0, affinity.abs() + 0.1, attention)
    moved = h0.clone()
    moved[0, 0, centre, centre] += 1e3
    before = list(refinement.steps(*positive[1:]))
    after = list(refinement.steps(moved, *positive[2:]))
    for t, (a, b) in enumerate(zip(before, after, strict=True), start=1):
        radius = t * refinement.reach
        ball = torch.zeros(side, side, dtype=torch.bool)
        low, high = centre - radius, centre + radius + 1
        ball[low:high, low:high] = True
        changed = (a != b)[0, 0]
        assert not changed[~ball].any()
        # inside the ball all weights are positive, so nothing stays but by rounding
        assert changed.sum() > 0.5 * ball.sum()
        assert changed[low, :].any()
        assert changed[:, high - 1].any()


def test_positive_affinity_keeps_the_range() -> None:
    refinement, h0, affinity, _ = random_case("cspn")
    out = last((refinement, h0, affinity.abs(), None))
    assert h0.min() <= out.min()
    assert out.max() <= h0.max()


def test_absolute_norm_forgets_the_start() -> None:
    refinement = create_refinement("cspn", norm="8sum_abs", iterations=600)
    h0 = torch.randn(1, 1, 5, 7, dtype=torch.float64)
    out = refinement.refine(h0, torch.ones(1, 8, 5, 7, dtype=torch.float64), tile=None)
    assert float(out.max() - out.min()) < 1e-3


def test_signed_growth_stays_within_its_bound() -> None:
    refinement, h0, affinity, _ = random_case("cspn", (1, 1, 31, 29))
    assert float(last((refinement, h0, affinity, None)).abs().max()) <= 13 * float(h0.abs().max())


def test_dyspn_attention_corners() -> None:
    refinement, h0, affinity, attention = random_case("dyspn")
    only = torch.zeros_like(attention)
    assert torch.allclose(last((refinement, h0, affinity, only)), h0, atol=1e-12)
    only[:, :, 0] = 1
    sharp = create_refinement("dyspn", eps=1e-12)
    assert torch.allclose(last((sharp, h0, affinity, only)), h0, atol=1e-9)
    ring_1 = torch.zeros_like(attention)
    ring_1[:, :, 1] = 1
    cspn = create_refinement("cspn", eps=1e-12)
    wanted = last((cspn, h0, affinity[:, :8], None))
    assert torch.allclose(last((sharp, h0, affinity, ring_1)), wanted, atol=1e-8)


@pytest.mark.parametrize(("ring", "gain"), [(1, -0.5), (2, 0.5), (3, -0.5)])
def test_row_stripes_lose_half_per_step(ring: int, gain: float) -> None:
    """Weights of one ring, uniform: rows +1, -1, +1 ... come out times this (systematic stripes
    of transposed convolutions are damped); a constant stays."""
    rows = torch.tensor([1.0, -1.0]).repeat(15)[:, None].expand(30, 30).double()
    refinement = create_refinement("dyspn", iterations=1, eps=1e-12)
    attention = torch.zeros(1, 1, 4, 30, 30, dtype=torch.float64)
    attention[:, :, ring] = 1
    affinity = torch.ones(1, 48, 30, 30, dtype=torch.float64)
    (out,) = refinement.steps(rows[None, None], affinity, attention)
    middle = (slice(4, -4), slice(4, -4))
    assert torch.allclose(out[0, 0][middle], gain * rows[middle], atol=1e-9)


@BOTH
def test_gradients(name: str) -> None:
    refinement, h0, affinity, attention = random_case(
        name, (1, 1, 2, 3), iterations=2, kernel=3 if name == "cspn" else 5
    )
    inputs = [h0, affinity] + ([] if attention is None else [attention])
    for value in inputs:
        value.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda *v: list(refinement.steps(*v))[-1], inputs)


def test_adjoint() -> None:
    refinement, h0, affinity, _ = random_case("cspn")
    h0.requires_grad_(True)
    out = last((refinement, h0, affinity, None))
    u = torch.randn_like(out)
    (back,) = torch.autograd.grad((out * u).sum(), h0)
    assert torch.allclose((h0 * back).sum(), (out * u).sum(), rtol=1e-10)


@BOTH
@pytest.mark.parametrize("tile", [3, 16, 64])
def test_tiles_change_nothing(name: str, tile: int) -> None:
    refinement, h0, affinity, attention = random_case(name, (1, 2, 17, 23), iterations=2)
    out = refinement.refine(h0, affinity, attention, tile=tile)
    assert torch.allclose(out, last((refinement, h0, affinity, attention)), atol=1e-12)


@BOTH
def test_one_slice_in_3d_is_2d(name: str) -> None:
    kernel = 3
    flat, h0, affinity, attention = random_case(name, kernel=kernel)
    deep = create_refinement(name, ndim=3, kernel=kernel)
    every = torch.randn(2, deep.channels, 1, 7, 11, dtype=torch.float64)
    for k, offset in enumerate(flat.offsets):
        every[:, deep.offsets.index((0, *offset)), 0] = affinity[:, k]
    thick = None if attention is None else attention[:, :, :, None]
    out = last((deep, h0[:, :, None], every, thick))
    assert torch.allclose(out[:, :, 0], last((flat, h0, affinity, attention)), atol=1e-12)


def test_3d_reaches_the_neighbouring_slices() -> None:
    refinement, h0, affinity, _ = random_case("cspn", (1, 1, 5, 6, 7), ndim=3, iterations=1)
    moved = h0.clone()
    moved[0, 0, 2, 3, 3] += 1
    changed = last((refinement, moved, affinity, None)) != last((refinement, h0, affinity, None))
    assert [int(v) for v in changed[0, 0].flatten(1).sum(1)] == [0, 9, 9, 9, 0]


@BOTH
def test_anchors_hold_and_spread(name: str) -> None:
    refinement, h0, affinity, attention = random_case(name, (1, 2, 15, 17))
    weight = torch.zeros(1, 1, 15, 17, dtype=torch.float64)
    weight[0, 0, 7, 4:9] = 1
    held = torch.full_like(h0, 8.0)
    steps = list(refinement.steps(h0, affinity, attention, Anchors(held, weight)))
    free = list(refinement.steps(h0, affinity, attention))
    for x in steps:
        assert torch.equal(x[..., 7, 4:9], held[..., 7, 4:9])
    assert not torch.allclose(steps[-1][..., 8, 4:9], free[-1][..., 8, 4:9])
    tiled = refinement.refine(h0, affinity, attention, Anchors(held, weight), tile=4)
    assert torch.allclose(tiled, steps[-1], atol=1e-12)


def test_released_code_reads_weights_at_the_source() -> None:
    """A weight of destination p for neighbour q = p + o is the source form's at q, opposite."""
    source = torch.randn(1, 8, 5, 6)
    turned = to_destination(source)
    names = ["TL", "T", "TR", "L", "R", "BL", "B", "BR"]
    here = turned[0, names.index("R"), 2, 3]
    assert here == source[0, names.index("L"), 2, 4]
    assert turned[0, names.index("T"), 0, 2] == 0
    refinement = create_refinement("cspn")
    h0 = torch.randn(1, 1, 5, 6)
    twice = to_destination(to_destination(turned))
    assert torch.allclose(last((refinement, h0, twice, None)), last((refinement, h0, turned, None)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: create_refinement("x"), "got refinement 'x', expected one of cspn, dyspn"),
        (lambda: create_refinement("cspn", kernel=4), "got kernel=4, expected an odd number"),
        (lambda: create_refinement("cspn", iterations=0), "got iterations=0"),
        (lambda: create_refinement("cspn", norm="y"), "got norm='y'"),
        (
            lambda: list(create_refinement("cspn").steps(torch.zeros(1, 1, 4, 4), torch.zeros(2))),
            r"got affinity \(2,\), expected \(1, 8, 4, 4\)",
        ),
        (
            lambda: list(
                create_refinement("dyspn").steps(torch.zeros(1, 1, 4, 4), torch.zeros(1, 48, 4, 4))
            ),
            "DySPN takes an attention",
        ),
    ],
)
def test_bad_wishes_are_refused(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
