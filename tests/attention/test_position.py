"""Position attention against its loop, criss-cross on one row, and the identity it begins as."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, filled, fresh, noise, parameters, rows_of

from napari_attnseg import create_attention
from napari_attnseg.errors import InputError


def test_equals_the_slow_twin() -> None:
    module, x = fresh("position", inner_channels=3), noise(2, 8, 5, 7)
    p = arrays(module)
    with torch.no_grad():
        y = module(x).numpy()
    for item, got in zip(x.numpy(), y, strict=True):
        q, k, v = (
            slow.project(item, p[f"pairs.{n}.weight"], p[f"pairs.{n}.bias"])
            for n in ("query", "key", "value")
        )
        expected = item + p["gamma"] * slow.attend(q, k, v, slow.everywhere, scale=1.0)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        row = slow.row(q, k, (2, 5), slow.everywhere)
        np.testing.assert_allclose(
            rows_of(module, (2, 5), torch.from_numpy(item)[None])[0], row, atol=1e-12
        )


def test_on_one_row_it_is_criss_cross_once() -> None:
    x = noise(2, 8, 1, 9)
    one = fresh("position")
    other = filled(create_attention("criss_cross", 8, recurrence=1))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x))


def test_where_pixels_lie_does_not_matter() -> None:
    module, x = fresh("position"), noise(1, 8, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    moved = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(moved).flatten(2), module(x).flatten(2)[..., order])


def test_parameters_and_bad_options() -> None:
    assert parameters("position") == 5201
    with pytest.raises(InputError, match="got inner_channels=0, expected at least 1"):
        create_attention("position", 8, inner_channels=0)
