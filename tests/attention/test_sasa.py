"""Stand-alone attention against its loop; borders, k = 1, a zero query, what k costs."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.errors import InputError


@pytest.mark.parametrize(("kernel", "heads"), [(3, 2), (7, 1), (1, 2)])
def test_equals_the_slow_twin(kernel: int, heads: int) -> None:
    module, x = fresh("sasa", kernel=kernel, heads=heads, out_channels=6), noise(1, 8, 5, 7)
    p, item, r = arrays(module), x[0].numpy(), kernel // 2
    q, k, v = (slow.project(item, p[f"{n}.weight"]) for n in ("query", "key", "value"))

    def relative(q: np.ndarray, k: np.ndarray, dy: int, dx: int, m: int) -> float:
        table = np.concatenate([p["relative.0"][dy + r], p["relative.1"][dx + r]])
        return float(q @ table)

    expected = slow.attend(q, k, v, slow.square(kernel), heads, 1.0, relative)
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)
    head = q[: 6 // heads], k[: 6 // heads]
    row = slow.row(*head, (0, 6), slow.square(kernel), 1.0, lambda *a: relative(*a, 0))
    got = rows_of(module, (0, 6), x)[0]
    np.testing.assert_allclose(got[0] if heads > 1 else got, row, atol=1e-12)


def test_a_zero_query_is_the_mean_of_the_neighbours_inside_the_image() -> None:
    module, x = fresh("sasa", kernel=3), noise(1, 8, 5, 7)
    with torch.no_grad():
        module.query.weight.zero_()
        v = module.value(x)
        total = torch.nn.functional.avg_pool2d(v, 3, 1, 1, count_include_pad=False)
        torch.testing.assert_close(module(x), total)


def test_a_kernel_of_one_is_the_value() -> None:
    module, x = fresh("sasa", kernel=1), noise(1, 8, 5, 7)
    torch.testing.assert_close(module(x), module.value(x))


def test_the_reach_is_the_kernel() -> None:
    reached = support(fresh("sasa", kernel=5), (0, 3), noise(1, 8, 6, 8))
    assert reached.sum() == 3 * 5
    assert reached[:3, 1:6].all()


def test_the_kernel_costs_only_its_table() -> None:
    assert parameters("sasa", heads=8) == 12_344
    assert parameters("sasa", heads=8, kernel=3) == 12_344 - 4 * 8


def test_a_stride_averages_down() -> None:
    x = noise(1, 8, 5, 8)
    fine, coarse = fresh("sasa", kernel=3), fresh("sasa", kernel=3, stride=2)
    coarse.load_state_dict(fine.state_dict())
    assert coarse(x).shape == (1, 8, 3, 4)
    torch.testing.assert_close(coarse(x)[..., 1, 2], fine(x)[..., 2:4, 4:6].mean((-1, -2)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": 4}, "got kernel=4, expected an odd number"),
        ({"stride": 0}, "got stride=0"),
        ({"heads": 3}, "got heads=3, expected a divisor of the 8 channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        create_attention("sasa", 8, **options)
