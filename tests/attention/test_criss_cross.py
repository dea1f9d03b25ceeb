"""Criss-cross attention against its loop; its reach after one and two passes."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.attention.neighbourhood import Cross
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_equals_the_slow_twin(recurrence: int) -> None:
    module, x = fresh("criss_cross", recurrence=recurrence), noise(1, 8, 5, 7)
    p = arrays(module)
    item = x[0].numpy()
    for _ in range(recurrence):
        q, k, v = (
            slow.project(item, p[f"pairs.{n}.weight"], p[f"pairs.{n}.bias"])
            for n in ("query", "key", "value")
        )
        item = item + p["gamma"] * slow.attend(q, k, v, slow.cross, scale=1.0)
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), item, atol=1e-11)


def test_one_pass_reaches_row_and_column_and_two_the_whole_image() -> None:
    x = noise(1, 8, 5, 7)
    once = support(fresh("criss_cross", recurrence=1), (2, 3), x)
    assert once.sum() == 5 + 7 - 1
    assert once[2].all()
    assert once[:, 3].all()
    assert support(fresh("criss_cross"), (2, 3), x).all()


def test_the_position_itself_counts_once() -> None:
    q, k = noise(1, 1, 2, 5, 7), noise(1, 1, 2, 5, 7, seed=8)
    weights = torch.softmax(Cross().scores(q, k), -1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 5, 7, dtype=torch.float64))
    for y in range(5):
        assert (weights[0, 0, y, :, y] == 0).all(), "left out of the column"


@pytest.mark.parametrize("recurrence", [1, 2])
def test_the_shown_row_is_a_row_of_all_passes(recurrence: int) -> None:
    """Of the longest product of the operator: every pass's weights times those before it."""
    module, x = fresh("criss_cross", recurrence=recurrence), noise(1, 8, 3, 4)
    a = module.operator(x)[:, -1]
    for at, index in (((0, 0), 0), ((2, 1), 9)):
        row = rows_of(module, at, x)
        torch.testing.assert_close(row.flatten(1), a[:, index])
        cross = rows_of(module, at, x, name="cross")[0]
        away = torch.ones(3, 4, dtype=torch.bool)
        away[at[0]], away[:, at[1]] = False, False
        assert (cross[away] == 0).all()
        assert (cross[~away] > 0).all()


def test_parameters_do_not_grow_with_passes() -> None:
    assert parameters("criss_cross") == parameters("criss_cross", recurrence=4) == 5201
    with pytest.raises(InputError, match="got recurrence=0"):
        create_attention("criss_cross", 8, recurrence=0)


def test_nothing_is_computed_for_rows_that_nobody_asked_for() -> None:
    module, x = fresh("criss_cross"), noise(1, 8, 3, 4)
    with torch.no_grad(), recording(module) as tape:
        module(x)
    assert [r.name for r in tape.records] == ["received"]
