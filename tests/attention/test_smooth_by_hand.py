"""Smooth Attention against cases worked by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from napari_attnseg.attention.smooth import SmoothAttention
from napari_attnseg.settings import RULES

GRID = 0.5 * torch.arange(9.0).view(1, 1, 3, 3)


def identity(**kw) -> SmoothAttention:
    """One channel with q = k = v = x."""
    module = SmoothAttention(1, **kw)
    with torch.no_grad():
        for conv in (module.query, module.key, module.value):
            conv.weight.fill_(1.0)
            conv.bias.zero_()
    return module


def close(got: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(
        got.detach().squeeze(), torch.tensor(expected, dtype=got.dtype), atol=atol, rtol=0
    )


def test_two_pixels_by_hand() -> None:
    """Scores [[ln 3, 0], [0, 0]]: P = [[.75, .25], [.5, .5]], D = .25 at both pixels."""
    x = torch.tensor([[[[log(3.0) ** 0.5, 0.0]]]])
    attended = identity().attend(x)
    close(attended.step, [0.25, 0.25])
    module = identity()
    close(module.row(x, 0, 0), [0.75, 0.25])
    close(module.row(x, 0, 1), [0.5, 0.5])
    close(attended.received, [0.625, 0.375])


def test_two_by_two_by_hand() -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    close(identity().attend(x).step, [[0.700219, 0.393914], [0.614955, 0.700219]])


def test_three_by_three_golden_maps() -> None:
    attended = identity().attend(GRID)
    close(
        attended.step,
        [
            [0.521087, 0.466244, 0.315615],
            [0.417141, 0.521087, 0.466244],
            [0.248619, 0.297974, 0.232466],
        ],
    )
    close(
        attended.value,
        [[2.0, 2.769771, 3.279805], [3.557648, 3.709567, 3.799283], [3.856398, 3.894839, 3.921741]],
    )


LAST_ROW = [4.928199, 5.44742, 5.960871]


PLAIN = [[1, 1.884885, 2.639903], [3.278824, 3.854784, 4.399641], LAST_ROW]


PAPER = [[1, 1.634885, 2.639903], [2.528824, 2.854784, 3.149641], LAST_ROW]


AUTHORS = [[1.397775, 2.024742, 2.639903], [3.102789, 3.692468, 4.286035], LAST_ROW]


SUPPRESS = [[0, 0.5, 2.639903], [1.5, 2, 2.5], LAST_ROW]


@pytest.mark.parametrize(
    ("rule", "threshold", "expected"),
    [
        ("paper", 0.4, PAPER),
        ("authors", 0.4, AUTHORS),
        ("suppress", 0.4, SUPPRESS),
        *((rule, 2.0, PLAIN) for rule in RULES),
    ],
)
def test_three_by_three_golden_outputs(rule: str, threshold: float, expected: list) -> None:
    module = identity(rule=rule, threshold=threshold)
    attended = module.attend(GRID)
    if threshold < 1:
        close(module.mask(attended).float(), [[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    close(module.gate(GRID, attended, gamma=0.5), expected)
