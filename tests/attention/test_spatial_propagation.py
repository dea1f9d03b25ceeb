"""Propagation of features from neighbour to neighbour."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.spatial_propagation import SpatialPropagation
from napari_attnseg.refinement import create_refinement

C = 3


def made(mode: str = "cspn", iterations: int = 2, ndim: int = 2) -> SpatialPropagation:
    torch.manual_seed(3)
    return SpatialPropagation(C, mode, iterations, ndim=ndim).double().eval()


def features(size: tuple[int, ...]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, C, *size, dtype=torch.float64)


@pytest.mark.parametrize("size", [(5, 6), (2, 3, 4)])
def test_cspn_pixel_by_pixel(size: tuple[int, ...]) -> None:
    module = made(ndim=len(size))
    x = features(size)
    raw = module.affinity(x)[0].detach().numpy()
    offsets = [o for o in product((-1, 0, 1), repeat=len(size)) if any(o)]
    first = x[0].numpy()
    h = first
    for _ in range(2):
        after = np.empty_like(h)
        for p in np.ndindex(*size):
            around = [
                (raw[(k, *p)], tuple(a + b for a, b in zip(p, o, strict=True)))
                for k, o in enumerate(offsets)
            ]
            around = [
                (a, q) for a, q in around if all(0 <= i < n for i, n in zip(q, size, strict=True))
            ]
            total = sum(abs(a) for a, _ in around)
            kappa = [a / total for a, _ in around]
            after[(slice(None), *p)] = (
                sum(k * h[(slice(None), *q)] for k, (_, q) in zip(kappa, around, strict=True))
                + (1 - sum(kappa)) * first[(slice(None), *p)]
            )
        h = after
    np.testing.assert_allclose(module(x)[0].detach().numpy(), h, atol=1e-7)


@pytest.mark.parametrize("mode", ["cspn", "dyspn"])
def test_constant_features_stay(mode: str) -> None:
    x = torch.full((1, C, 9, 8), 2.5, dtype=torch.float64)
    torch.testing.assert_close(made(mode)(x), x)


def test_dyspn_is_the_refinements_own() -> None:
    module = made("dyspn")
    x = features((7, 11))
    affinity, rings = module.steering(x)
    assert rings is not None
    assert (rings > 0).all()
    assert rings.shape == (2, 2, 3, 7, 11)
    alone = create_refinement("dyspn", iterations=2, kernel=5).refine(x, affinity, rings)
    torch.testing.assert_close(module(x), alone)


@pytest.mark.parametrize(("mode", "reach"), [("cspn", 2), ("dyspn", 4)])
def test_features_go_as_far_as_said(mode: str, reach: int) -> None:
    module = made(mode)
    assert module.reach == reach
    x = features((13, 13))
    weights = module.operator(x)[0, 0, 6 * 13 + 6].unflatten(0, (13, 13))
    seen = weights.nonzero()
    assert seen.amin(0).tolist() == [6 - reach] * 2
    assert seen.amax(0).tolist() == [6 + reach] * 2


def test_every_step_is_shown() -> None:
    module = made("dyspn", iterations=3)
    x = features((7, 11))
    with torch.no_grad(), recording(module) as tape:
        y = module(x)
        iterates = list(module.refinement.steps(x, *module.steering(x)))
    moved = [r for r in tape.records if r.name == "step"]
    assert [r.step for r in moved] == [1, 2, 3]
    before = x
    for record, after in zip(moved, iterates, strict=True):
        torch.testing.assert_close(record.values, (after - before).abs().mean(1))
        before = after
    torch.testing.assert_close(before, y)
    (affinity,) = (r for r in tape.records if r.name == "affinity")
    assert affinity.values.shape == (2, 24, 7, 11)
    assert affinity.labels[0] == "(-1, -1)"
    total = affinity.values.abs().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert len([r for r in tape.records if r.name == "rings"]) == 3
