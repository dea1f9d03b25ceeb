"""The controls of the experiments do what their names say, and are offered to nobody."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import create_refinement, list_refinements
from napari_attnseg.refinement.fold import gathered


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def test_controls_are_not_offered() -> None:
    assert list_refinements() == ["cspn", "dyspn"]
    every = ["cspn", "cspn_fold", "dyspn", "dyspn_fold", "none", "off"]
    assert list_refinements(controls=True) == every
    with pytest.raises(InputError, match=r"expected one of cspn, dyspn$"):
        create_refinement("x")


def test_none_adds_what_the_network_says() -> None:
    h0, residual = torch.randn(2, 3, 7, 11), torch.randn(2, 3, 7, 11)
    none = create_refinement("none", maps=3, iterations=2)
    assert none.channels == 3
    for x in none.steps(h0, residual):
        assert torch.equal(x, h0 + residual)
    assert torch.equal(none.refine(h0, residual, tile=4), h0 + residual)
    with pytest.raises(InputError, match="got 2 maps, expected 3"):
        none.refine(h0[:, :2], residual)


def test_off_leaves_the_coarse_map() -> None:
    h0, affinity = torch.randn(2, 3, 7, 11), torch.randn(2, 8, 7, 11)
    off = create_refinement("off")
    assert off.channels == create_refinement("cspn").channels
    assert all(torch.equal(x, h0) for x in off.steps(h0, affinity))


def unfolded_and_folded(weights, x, kernel: int):
    """``weights`` (1, kernel^2, H*W), zero outside: what comes back on each pixel of x."""
    size = x.shape[-2:]
    products = weights * F.unfold(x, kernel, padding=kernel // 2)
    return F.fold(products, size, kernel, padding=kernel // 2)


def in_raster(affinity, kernel: int):
    """(1, kernel^2, H*W) in row-major order, the middle 0, nothing read from outside."""
    raster = [(i, j) for i in range(kernel) for j in range(kernel)]
    middle = kernel // 2
    ring = [max(abs(i - middle), abs(j - middle)) for i, j in raster]
    order = sorted((k for k in range(kernel**2) if ring[k]), key=lambda k: (ring[k], k))
    out = affinity.new_zeros(1, kernel**2, *affinity.shape[-2:])
    out[:, order] = affinity
    inside = F.unfold(torch.ones_like(affinity[:, :1]), kernel, padding=middle)
    return out.flatten(2) * inside, torch.tensor(ring)


def test_the_fold_form_of_cspn_is_the_published_one() -> None:
    """Against torch's own unfold and fold."""
    h0 = torch.randn(1, 1, 7, 11, dtype=torch.float64)
    a = torch.randn(1, 8, 7, 11, dtype=torch.float64)
    weights, _ = in_raster(a, 3)
    kappa = weights / (weights.abs().sum(1, keepdim=True) + 1e-8)
    again = (1 - kappa.sum(1, keepdim=True)).view_as(h0) * h0
    x = h0
    for ours in create_refinement("cspn_fold", iterations=3).steps(h0, a):
        x = unfolded_and_folded(kappa, x, 3) + again
        assert torch.allclose(ours, x, atol=1e-12)


def test_the_fold_form_of_dyspn_is_the_published_one() -> None:
    h0 = torch.randn(1, 1, 9, 11, dtype=torch.float64)
    a = torch.randn(1, 48, 9, 11, dtype=torch.float64)
    pi = torch.rand(1, 3, 4, 9, 11, dtype=torch.float64)
    raw, ring = in_raster(a, 7)
    x = h0
    for t, ours in enumerate(create_refinement("dyspn_fold", iterations=3).steps(h0, a, pi)):
        weights = raw * pi[:, t].flatten(2)[:, ring]
        whole = (weights.abs().sum(1, keepdim=True)).view_as(h0) + pi[:, t, :1] + 1e-4
        signed = weights.sum(1, keepdim=True).view_as(h0) + pi[:, t, :1]
        moved = unfolded_and_folded(weights, x, 7) + pi[:, t, :1] * x
        x = (moved + (whole - signed) * h0) / whole
        assert torch.allclose(ours, x, atol=1e-12)


def test_what_a_fold_leaves_has_the_right_gradient() -> None:
    offsets = create_refinement("dyspn").offsets
    weight = torch.randn(1, 48, 5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: gathered(w, offsets), (weight,))
