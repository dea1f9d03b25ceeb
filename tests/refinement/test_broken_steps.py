"""Steps that are known to be broken fail the very checks that ours pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from napari_attnseg.refinement import create_refinement
from napari_attnseg.refinement.stencil import add_neighbours, weight_sum

SIDE = 37
Form = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def given(name: str, steps: int) -> tuple[Tensor, Tensor | None]:
    """Positive affinity and attention."""
    channels = create_refinement(name).channels
    affinity = torch.rand(1, channels, SIDE, SIDE, dtype=torch.float64) + 0.1
    pi = torch.rand(1, steps, 4, SIDE, SIDE, dtype=torch.float64)
    return affinity, pi if create_refinement(name).needs_attention else None


def form(name: str, steps: int) -> Form:
    refinement, guide = create_refinement(name, iterations=steps), given(name, steps)
    return lambda h0: refinement.refine(h0, *guide)


def not_normalised(steps: int) -> Form:
    """The residual weight from the affinities before their division."""
    affinity, _ = given("cspn", steps)
    offsets = create_refinement("cspn").offsets
    share = 1 / weight_sum(affinity, offsets, absolute=True)
    rest = 1 - weight_sum(affinity, offsets)

    def run(h0: Tensor) -> Tensor:
        x = h0
        for _ in range(steps):
            x = share * add_neighbours(torch.zeros_like(x), affinity, x, offsets) + rest * h0
        return x

    return run


def one_column_off(affinity: Tensor, steps: int) -> Form:
    """The coarse map comes back from the pixel to the right."""
    offsets = create_refinement("cspn").offsets
    share = 1 / (weight_sum(affinity, offsets, absolute=True) + 1e-8)
    rest = 1 - weight_sum(affinity, offsets) * share

    def run(h0: Tensor) -> Tensor:
        x, shifted = h0, h0.roll(-1, 3)
        for _ in range(steps):
            x = share * add_neighbours(torch.zeros_like(x), affinity, x, offsets) + rest * shifted
        return x

    return run


def reached(run: Form) -> Tensor:
    """(rows, columns): how far a single pixel is felt to each side: up, down, left, right."""
    h0 = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    h0[0, 0, SIDE // 2, SIDE // 2] = 1
    places = (run(h0)[0, 0] != 0).nonzero() - SIDE // 2
    low, high = places.amin(0), places.amax(0)
    return torch.stack([-low[0], high[0], -low[1], high[1]])


def keeps_constants(run: Form) -> bool:
    constant = torch.full((1, 1, SIDE, SIDE), -3.25, dtype=torch.float64)
    return torch.allclose(run(constant), constant, atol=1e-6)


@pytest.mark.parametrize(("name", "reach"), [("cspn", 1), ("dyspn", 3)])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_one_pixel_is_felt_as_far_as_steps_go(name: str, reach: int, steps: int) -> None:
    radius = reach * steps
    assert reached(form(name, steps)).tolist() == [radius] * 4
    assert reached(form(f"{name}_fold", steps)).tolist() == [0] * 4


@pytest.mark.parametrize("name", ["cspn", "dyspn"])
def test_constants_are_kept(name: str) -> None:
    assert keeps_constants(form(name, 6))
    assert not keeps_constants(form(f"{name}_fold", 6))
    assert not keeps_constants(not_normalised(6))


def test_the_coarse_map_comes_back_where_it_was() -> None:
    """Without any affinity it is all there is."""
    affinity = torch.zeros(1, 8, SIDE, SIDE, dtype=torch.float64)
    cspn = create_refinement("cspn")
    h0 = torch.randn(1, 1, SIDE, SIDE, dtype=torch.float64)
    assert torch.equal(cspn.refine(h0, affinity), h0)
    shifted = one_column_off(affinity, 6)
    assert not torch.allclose(shifted(h0), h0, atol=0.1)
    assert keeps_constants(shifted)  # constants do not tell
