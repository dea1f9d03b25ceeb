"""Propagation in volumes: all neighbours, or the slice's own and those straight across."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import Anchors, create_refinement
from napari_attnseg.refinement.neighbours import rings, straight_rings
from napari_attnseg.refinement.volume import across_slices, as_slices, as_volume, attention_of

KW = {"dtype": torch.float64}
BOTH = pytest.mark.parametrize("name", ["cspn", "dyspn"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def slow_3d(h0: Tensor, affinity: Tensor, attention: Tensor | None, sizes: list[int], offsets):
    """One step of either formula as a loop over voxels; (1, 1, D, H, W)."""
    shape, out = h0.shape[2:], torch.zeros_like(h0)
    ring_of = [r for r, n in enumerate(sizes, start=1) for _ in range(n)]
    for p in product(*map(range, shape)):
        pi = [0.0, *([1.0] * len(sizes))] if attention is None else attention[(0, 0, ..., *p)]
        moved, signed = float(pi[0] * h0[(0, 0, *p)]), float(pi[0])
        size = float(pi[0]) + (1e-8 if attention is None else 1e-4)
        for k, offset in enumerate(offsets):
            q = tuple(a + o for a, o in zip(p, offset, strict=True))
            if all(0 <= a < n for a, n in zip(q, shape, strict=True)):
                weight = float(pi[ring_of[k]] * affinity[(0, k, *p)])
                moved += weight * float(h0[(0, 0, *q)])
                signed, size = signed + weight, size + abs(weight)
        rest = 0.0 if attention is None else 1e-4  # CSPN has eps in the denominator alone
        weight_left = size - signed - (0 if rest else 1e-8)
        out[(0, 0, *p)] = (moved + weight_left * h0[(0, 0, *p)]) / size
    return out


@BOTH
@pytest.mark.parametrize("straight", [False, True])
def test_a_volume_equals_the_loop(name: str, straight: bool) -> None:
    kernel = 5 if straight else 3
    deep = create_refinement(name, ndim=3, iterations=1, kernel=kernel, straight=straight)
    assert deep.channels == 26  # 3^3 - 1, or 10 + 16
    h0 = torch.randn(1, 1, 3, 5, 7, **KW)
    affinity = torch.randn(1, deep.channels, 3, 5, 7, **KW)
    attention = None
    if deep.needs_attention:
        attention = torch.rand(1, 1, len(deep.rings) + 1, 3, 5, 7, **KW)
    (out,) = deep.steps(h0, affinity, attention)
    slow = slow_3d(h0, affinity, attention, [len(r) for r in deep.rings], deep.offsets)
    assert torch.allclose(out, slow, atol=1e-7)


def test_neighbours_of_a_volume() -> None:
    assert [len(r) for r in rings(7, 3)] == [26, 98, 218]
    assert [len(r) for r in straight_rings(7)] == [10, 16, 24]
    inner = straight_rings(3)[0]
    assert inner[0] == (-1, 0, 0)
    assert inner[-1] == (1, 0, 0)
    assert [o[1:] for o in inner[1:-1]] == list(rings(3)[0])
    with pytest.raises(InputError, match="straight=True in 2D"):
        create_refinement("cspn", straight=True)


def slices_of(name: str, n: int, maps: int = 1, **options):
    flat = create_refinement(name, iterations=3, maps=maps, **options)
    logits = torch.randn(n, 3, 7, 11, **KW)
    affinity = torch.randn(n, flat.channels, 7, 11, **KW)
    attention = None
    if flat.needs_attention:
        attention = torch.rand(n, 3, len(flat.rings) + 1, 7, 11, **KW)
    return flat, logits, affinity, attention, torch.rand(n, 2, 7, 11, **KW)


def through(flat, logits, affinity, attention, image, across: float, anchors=None) -> Tensor:
    deep = flat.through_slices()
    weights = across_slices(affinity, image, across, maps=flat.maps)
    rings_of = None if attention is None else attention_of(attention)
    return as_slices(deep.refine(as_volume(logits), weights, rings_of, anchors))


@BOTH
@pytest.mark.parametrize("maps", [1, 3])
def test_one_slice_through_slices_is_2d(name: str, maps: int) -> None:
    flat, *given, image = slices_of(name, 1, maps)
    assert torch.allclose(through(flat, *given, image, 0.5), flat.refine(*given), atol=1e-12)


@BOTH
@pytest.mark.parametrize("maps", [1, 3])
def test_slices_stay_apart_where_nothing_goes_across(name: str, maps: int) -> None:
    flat, *given, image = slices_of(name, 4, maps)
    apart = flat.refine(*given)
    assert torch.allclose(through(flat, *given, image, 0.0), apart, atol=1e-12)
    assert not torch.allclose(through(flat, *given, image, 0.5), apart, atol=1e-3)
    unlike = torch.arange(4.0, **KW).view(4, 1, 1, 1).expand(4, 2, 7, 11)
    assert torch.allclose(through(flat, *given, unlike, 0.5), apart, atol=1e-9)


@BOTH
def test_what_is_carried_across_by_hand(name: str) -> None:
    """Both neighbours look the same: together they have ``across`` times the weight of ring 1."""
    _, _, affinity, _, image = slices_of(name, 3)
    weights = across_slices(affinity, image[:1].expand(3, -1, -1, -1), 0.8)[0]
    own = affinity[1, :8].abs().sum(0)
    assert torch.allclose(weights[0, 1] + weights[9, 1], 0.8 * own)
    assert torch.equal(weights[1:9, 1], affinity[1, :8])
    assert torch.equal(weights[10:, 1], affinity[1, 8:])
    assert not weights[0, 0].any()
    assert not weights[9, 2].any()
    half = across_slices(affinity, image * 0 + torch.tensor([0, 0.1, 0.1]).view(3, 1, 1, 1), 0.8)
    assert torch.allclose(half[0, 0, 1], 0.4 * own * torch.exp(torch.tensor(-0.5, **KW)))


@BOTH
def test_a_stroke_reaches_the_next_slices_and_constants_stay(name: str) -> None:
    flat, logits, affinity, attention, image = slices_of(name, 5)
    same = image[:1].expand(5, -1, -1, -1)
    constant = torch.full_like(logits, 2.5)
    kept = through(flat, constant, affinity, attention, same, 0.5)
    assert torch.allclose(kept, constant, atol=1e-12)
    weight = torch.zeros(1, 1, 5, 7, 11, **KW)
    weight[0, 0, 0, 3, 4] = 1
    anchors = Anchors(torch.full_like(as_volume(logits), 9.0), weight)
    held = through(flat, logits, affinity, attention, same, 0.5, anchors)
    free = through(flat, logits, affinity, attention, same, 0.5)
    assert torch.equal(held[0, :, 3, 4], torch.full((3,), 9.0, **KW))
    moved = (held - free).abs().amax((1, 2, 3)) > 1e-9
    # held before the first iteration too, so three iterations reach three slices on
    assert moved.tolist() == [True, True, True, True, False]


def test_bad_volumes_are_refused() -> None:
    affinity, image = torch.zeros(3, 8, 4, 4), torch.zeros(3, 1, 4, 4)
    with pytest.raises(InputError, match="got 2 slices of the image and 3 of the affinity"):
        across_slices(affinity, image[:2])
    with pytest.raises(InputError, match=r"got across=-1"):
        across_slices(affinity, image, across=-1)
    with pytest.raises(InputError, match="got alike=0"):
        across_slices(affinity, image, alike=0)
    with pytest.raises(InputError, match="expected a 2D one"):
        create_refinement("cspn", ndim=3).through_slices()
    with pytest.raises(InputError, match="expected a 2D one"):
        create_refinement("none").through_slices()
