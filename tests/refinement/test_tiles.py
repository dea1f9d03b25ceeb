"""How propagation is cut up: never more memory than allowed, never another answer."""

from __future__ import annotations

import pytest
import torch

from napari_attnseg.refinement import create_refinement
from napari_attnseg.refinement.tiles import LEAST, largest_side, tiles


@pytest.mark.parametrize("shape", [(17, 23), (64, 5), (9, 10, 11)])
@pytest.mark.parametrize("side", [4, 7, 100])
def test_tiles_cover_every_pixel_once(shape: tuple[int, ...], side: int) -> None:
    seen = torch.zeros(1, 1, *shape, dtype=torch.int)
    for inner, outer, kept in tiles(shape, side, 3):
        seen[inner] += 1
        assert seen[outer][kept].shape == seen[inner].shape
        for i, o, n in zip(inner[2:], outer[2:], shape, strict=True):
            assert o.start == max(0, i.start - 3)
            assert o.stop == min(n, i.stop + 3)
    assert (seen == 1).all()


@pytest.mark.parametrize("budget", [10**5, 10**6, 10**7])
def test_the_largest_side_that_fits(budget: int) -> None:
    side = largest_side((700, 900), 18, 88, budget)

    def cost(s: int) -> int:
        return 88 * min(s + 36, 700) * min(s + 36, 900)

    assert side is not None
    assert cost(side) <= budget or side == LEAST
    assert cost(side + 1) > budget
    assert largest_side((700, 900), 18, 88, 88 * 700 * 900) is None
    assert largest_side((700, 900), 18, 88, 88 * 700 * 900 - 1) is not None


def test_dyspn_works_in_one_piece_until_memory_asks() -> None:
    """Its halo of 18 pixels costs more than the cache gains; CSPN's 6 pixels do not."""
    big, small = torch.empty(1, 1, 1024, 1024), torch.empty(1, 1, 200, 240)
    cspn, dyspn = create_refinement("cspn"), create_refinement("dyspn")
    assert dyspn.side(big) is None
    assert (cspn.side(small), cspn.side(big)) == (None, 256)
    assert cspn.side(small, budget=1 << 20) in range(LEAST, 200)
    side = dyspn.side(big, budget=16 << 20)
    assert side is not None
    assert 300 < side < 500
    assert dyspn.side(torch.empty(4, 1, 1024, 1024), budget=16 << 20) < side


@pytest.mark.parametrize("name", ["cspn", "dyspn"])
@pytest.mark.parametrize("maps", [1, 2])
def test_a_budget_does_not_change_the_answer(name: str, maps: int) -> None:
    torch.manual_seed(1)
    refinement = create_refinement(name, iterations=2, maps=maps)
    h0 = torch.randn(2, 2, 77, 91, dtype=torch.float64)
    affinity = torch.randn(2, refinement.channels, 77, 91, dtype=torch.float64)
    attention = None
    if refinement.needs_attention:
        attention = torch.rand(2, 2, 4, 77, 91, dtype=torch.float64)
    whole = refinement.refine(h0, affinity, attention, tile=None)
    assert refinement.side(h0, budget=1) == LEAST
    assert torch.allclose(refinement.refine(h0, affinity, attention, budget=1), whole, atol=1e-12)
