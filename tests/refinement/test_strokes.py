"""Strokes carried along the affinity: against a loop over pixels, and what a person relies on."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import Anchors, create_refinement, strokes
from napari_attnseg.refinement.strokes import carry


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strokes, "FAR", strokes.FAR._replace(reach=9))
    torch.manual_seed(5)


def case(shape: tuple[int, ...] = (1, 2, 7, 11), name: str = "cspn", **options) -> tuple:
    """Logits, affinity, attention and a refinement for them."""
    refinement = create_refinement(name, **options)
    logits = torch.randn(shape, dtype=torch.float64) * 3
    affinity = torch.randn(shape[0], refinement.channels, *shape[2:], dtype=torch.float64)
    attention = None
    if refinement.needs_attention:
        parts = (refinement.iterations, len(refinement.rings) + 1)
        attention = torch.rand(shape[0], *parts, *shape[2:], dtype=torch.float64)
    return logits, affinity, attention, refinement


def held(like: Tensor, *painted: tuple[tuple[int, ...], float, float]) -> Anchors:
    """Anchors from (pixel, logit of the first map, weight); other maps hold the opposite."""
    logits, weight = torch.zeros_like(like), torch.zeros_like(like[:, :1])
    for pixel, value, strength in painted:
        at = (slice(None), slice(None), *pixel)
        logits[at] = -value
        logits[(slice(None), slice(0, 1), *pixel)] = value
        weight[at] = strength
    return Anchors(logits, weight)


def slow(answer: np.ndarray, a: np.ndarray, offsets: tuple, anchors: Anchors) -> np.ndarray:
    """The module's two equations, pixel by pixel."""
    h, w = anchors.logits.numpy(), anchors.weight.numpy()[:, 0]
    out = np.empty_like(answer)
    batch, maps, *shape = answer.shape
    pixels = list(product(*(range(n) for n in shape)))
    for b, k in product(range(batch), range(maps)):
        c = {p: strokes.FAR.gain * (h[(b, k, *p)] - answer[(b, k, *p)]) for p in pixels}
        d = {p: w[(b, *p)] * c[p] for p in pixels}
        first = d
        for _ in range(strokes.FAR.reach):
            new = {}
            for p in pixels:
                near = [(n, tuple(np.add(p, o))) for n, o in enumerate(offsets)]
                near = [(n, q) for n, q in near if q in d]
                whole = sum(abs(a[(b, n, *p)]) for n, _ in near) * (1 + strokes.FAR.loss)
                moved = sum(abs(a[(b, n, *p)]) * d[q] for n, q in near) / (whole + strokes.EPS)
                new[p] = (1 - w[(b, *p)]) * moved + first[p]
            d = new
        for p in pixels:
            v, r = w[(b, *p)], answer[(b, k, *p)]
            arrived = (d[p] - first[p]) / (strokes.FAR.gain if v else 1)
            out[(b, k, *p)] = r + v * (h[(b, k, *p)] - r) + arrived
    return out


@pytest.mark.parametrize("name", ["cspn", "dyspn"])
def test_it_equals_the_loop(name: str) -> None:
    logits, affinity, attention, refinement = case(name=name, iterations=2)
    anchors = held(logits, ((2, 3), 6.0, 1.0), ((2, 4), 6.0, 1.0), ((6, 9), -6.0, 0.4))
    answer = refinement.refine(logits, affinity, attention)
    got = carry(logits, affinity, attention, refinement, anchors)
    wanted = slow(answer.numpy(), affinity.numpy(), refinement.rings[0], anchors)
    assert np.allclose(got.numpy(), wanted, atol=1e-10)


def test_it_equals_the_loop_in_a_volume() -> None:
    logits, affinity, _, refinement = case((1, 1, 3, 4, 5), ndim=3, iterations=1)
    anchors = held(logits, ((1, 2, 2), 6.0, 1.0))
    got = carry(logits, affinity, None, refinement, anchors)
    answer = refinement.refine(logits, affinity)
    wanted = slow(answer.numpy(), affinity.numpy(), refinement.rings[0], anchors)
    assert np.allclose(got.numpy(), wanted, atol=1e-10)
    moved = (got - answer).abs().amax((0, 1, 3, 4))
    assert (moved > 0.01).all()  # the stroke reaches the slices on either side


@pytest.mark.parametrize("name", ["cspn", "dyspn"])
def test_without_strokes_it_is_the_refinement(name: str) -> None:
    logits, affinity, attention, refinement = case(name=name)
    anchors = held(logits)
    got = carry(logits, affinity, attention, refinement, anchors)
    assert torch.equal(got, refinement.refine(logits, affinity, attention))


def test_strokes_without_strength_change_nothing() -> None:
    logits, affinity, attention, refinement = case()
    anchors = held(logits, ((2, 3), 6.0, 0.0))
    got = carry(logits, affinity, attention, refinement, anchors)
    assert torch.equal(got, refinement.refine(logits, affinity))


def test_painted_pixels_are_held_to_the_bit() -> None:
    logits, affinity, _, refinement = case((1, 3, 40, 33))
    logits, affinity = logits.float(), affinity.float()
    painted = [((y, x), 6.0 if x < 12 else -6.0, 1.0) for y in range(9, 14) for x in (5, 20)]
    anchors = held(logits, *painted)
    got = carry(logits, affinity, None, refinement, anchors)
    where = (anchors.weight == 1).expand_as(got)
    assert torch.equal(got[where], anchors.logits[where])
    assert (got != refinement.refine(logits, affinity))[~where].any()


def test_a_stroke_that_agrees_changes_nothing() -> None:
    logits, affinity, _, refinement = case()
    same = torch.full_like(logits, 2.5)
    anchors = Anchors(same, held(logits, ((2, 3), 1.0, 1.0), ((5, 5), 1.0, 0.5)).weight)
    assert torch.allclose(carry(same, affinity, None, refinement, anchors), same, atol=1e-6)


def test_corrections_never_overshoot() -> None:
    logits, affinity, _, refinement = case((1, 1, 20, 21))
    anchors = held(logits, ((9, 9), 6.0, 1.0))
    answer = refinement.refine(logits, affinity)
    change = carry(logits, affinity, None, refinement, anchors, answer=answer) - answer
    most = strokes.FAR.gain * float(6.0 - answer[0, 0, 9, 9])
    assert change.min() >= -1e-12
    assert change.max() <= most + 1e-12


def test_it_goes_as_far_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strokes, "FAR", strokes.FAR._replace(reach=5))
    logits, affinity, _, refinement = case((1, 1, 31, 33))
    anchors = held(logits, ((15, 16), 9.0, 1.0))
    answer = refinement.refine(logits, affinity)
    moved = (carry(logits, affinity, None, refinement, anchors, answer=answer) != answer)[0, 0]
    rows, cols = moved.any(1).nonzero(), moved.any(0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (10, 20)
    assert (int(cols.min()), int(cols.max())) == (11, 21)


def test_windows_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of strokes that cannot meet are worked on apart, each in its own window."""
    monkeypatch.setattr(strokes, "FAR", strokes.FAR._replace(reach=4))
    logits, affinity, _, refinement = case((1, 2, 50, 47))
    spots = [(3, 4), (5, 8), (30, 40), (44, 3), (22, 20), (28, 26)]
    anchors = held(logits, *((p, 6.0, 1.0) for p in spots))
    answer = refinement.refine(logits, affinity)
    assert 1 < len(strokes._windows(anchors.weight, strokes.FAR.reach)) < len(spots)
    got = carry(logits, affinity, None, refinement, anchors, answer=answer)
    whole = strokes.spread(affinity.abs(), refinement.rings[0], anchors, answer, strokes.FAR)
    assert torch.allclose(got, anchors.hold(answer) + whole, atol=1e-12)


def test_the_past_does_not_matter() -> None:
    """The same strokes give the same bits after others were painted and taken back."""
    logits, affinity, _, refinement = case((1, 1, 30, 31))
    logits, affinity = logits.float(), affinity.float()
    one, two = ((4, 5), 6.0, 1.0), ((20, 22), -6.0, 1.0)
    first = carry(logits, affinity, None, refinement, held(logits, one, two))
    carry(logits, affinity, None, refinement, held(logits, one, two, ((12, 12), 6.0, 1.0)))
    assert torch.equal(carry(logits, affinity, None, refinement, held(logits, two, one)), first)


def test_a_volume_of_one_slice_is_a_slice() -> None:
    logits, affinity, _, refinement = case((1, 2, 7, 11))
    anchors = held(logits, ((2, 3), 6.0, 1.0), ((5, 8), -6.0, 0.5))
    deep = create_refinement("cspn", ndim=3)
    weights = torch.randn(1, 26, 1, 7, 11, dtype=torch.float64)
    weights[:, [n for n, o in enumerate(deep.offsets) if o[0] == 0]] = affinity[:, :, None]
    lifted = Anchors(anchors.logits[:, :, None], anchors.weight[:, :, None])
    got = carry(logits[:, :, None], weights, None, deep, lifted)
    assert torch.allclose(got[:, :, 0], carry(logits, affinity, None, refinement, anchors))


def test_maps_with_an_affinity_of_their_own() -> None:
    logits, affinity, _, refinement = case((1, 2, 7, 11))
    other = torch.randn_like(affinity)
    anchors = held(logits, ((2, 3), 6.0, 1.0))
    both = create_refinement("cspn", maps=2)
    got = carry(logits, torch.cat([affinity, other], 1), None, both, anchors)
    for k, own in enumerate((affinity, other)):
        single = Anchors(anchors.logits[:, k : k + 1], anchors.weight)
        alone = carry(logits[:, k : k + 1], own, None, refinement, single)
        assert torch.allclose(got[:, k : k + 1], alone)


def test_strokes_of_another_size_are_refused() -> None:
    logits, affinity, _, refinement = case()
    anchors = Anchors(logits, torch.zeros(1, 1, 7, 10))
    with pytest.raises(InputError, match="got strokes of shape"):
        carry(logits, affinity, None, refinement, anchors)
