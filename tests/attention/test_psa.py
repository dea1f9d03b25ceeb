"""Point-wise spatial attention against its loop; the rule for sizes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError


@pytest.mark.parametrize("max_size", [7, 9])
def test_equals_the_slow_twin(max_size: int) -> None:
    h, w, width = 5, 7, 2 * max_size - 1
    module, x = fresh("psa", max_size=max_size, shrink=1), noise(1, 8, h, w)
    p, item = arrays(module), x[0].numpy()
    mixed, weights = [], []
    for i in range(2):
        u = slow.normed(item, slow.under(f"reduce.{i}", p))
        hidden = slow.normed(u, slow.under(f"score.{i}", p))
        scores = slow.project(hidden, p[f"score.{i}.3.weight"])
        out, a = np.zeros_like(u), np.zeros((h, w, h, w))
        for y, c in product(range(h), range(w)):
            s = np.zeros((h, w))
            for yy, cc in product(range(h), range(w)):
                step = (yy - y, cc - c) if i == 0 else (y - yy, c - cc)
                entry = (step[0] + max_size - 1) * width + step[1] + max_size - 1
                s[yy, cc] = scores[entry, y, c] if i == 0 else scores[entry, yy, cc]
            a[y, c] = slow.softmax(s)
            out[:, y, c] = (a[y, c] * u).sum((1, 2))
        mixed.append(out)
        weights.append(a)
    expected = item + slow.normed(np.concatenate(mixed), slow.under("out", p))
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)
    for a, name in zip(weights, ("collect", "distribute"), strict=True):
        row = rows_of(module, (3, 6), x, name=f"row {name}")[0]
        np.testing.assert_allclose(row, a[3, 6], atol=1e-12)


def test_the_grid_is_shrunk_and_bounded() -> None:
    module = create_attention("psa", 8, max_size=4)
    assert module.grid((7, 5)) == (4, 3)
    assert module.grid((64, 6)) == (4, 3)
    assert module.grid((1, 1)) == (1, 1)
    one = create_attention("psa", 8, max_size=20, shrink=1)
    assert one.grid((17, 23)) == (17, 20)


def test_any_size_runs_and_rows_are_placed_on_the_coarse_grid() -> None:
    module, x = fresh("psa", max_size=4), noise(1, 8, 24, 16)
    assert module(x).shape == x.shape
    with torch.no_grad(), recording(module, (0.9, 0.1)) as tape:
        module(x)
    for record in tape.records[1:]:
        assert record.values.shape == (1, 4, 4)
        assert record.geometry.stride == (6.0, 4.0)
        torch.testing.assert_close(record.values.sum(), torch.ones((), dtype=torch.float64))


def test_everything_is_reached() -> None:
    assert support(fresh("psa", 32), (0, 0), noise(1, 32, 9, 12)).all()


def test_parameters_and_options() -> None:
    assert parameters("psa") == 35_616
    assert parameters("psa", max_size=8) == 12_064
    with pytest.raises(InputError, match="got max_size=0, shrink=2"):
        create_attention("psa", 8, max_size=0)
