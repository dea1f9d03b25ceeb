"""Channel affinity attention against its loop, and what the minus sign means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shelf import fresh, noise, parameters

from napari_attnseg.attention.recording import recording


@pytest.mark.parametrize("affinity", ["minus", "plus"])
def test_equals_the_slow_twin(affinity: str) -> None:
    module, x = fresh("channel", 4, affinity=affinity), noise(2, 4, 5, 7) * 0.3
    with torch.no_grad():
        y = module(x).numpy()
    for item, got in zip(x.numpy(), y, strict=True):
        expected = item.copy()
        for i in range(4):
            energy = np.array([(item[i] * item[j]).sum() for j in range(4)])
            e = energy if affinity == "plus" else energy.max() - energy
            weights = np.exp(e) / np.exp(e).sum()
            for j in range(4):
                expected[i] += float(module.gamma.detach()) * weights[j] * item[j]
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_the_matrix_is_shown_and_its_rows_sum_to_one() -> None:
    module, x = fresh("channel", 4), noise(2, 4, 5, 7)
    with torch.no_grad(), recording(module) as tape:
        module(x)
    (record,) = tape.records
    assert (record.kind, tuple(record.values.shape)) == ("matrix", (2, 4, 4))
    torch.testing.assert_close(record.values.sum(-1), torch.ones(2, 4, dtype=torch.float64))


def test_channels_that_agree_most_weigh_least_under_minus() -> None:
    x = noise(1, 3, 4, 4) * 0.5
    x[:, 1] = x[:, 0]
    a = fresh("channel", 3).weights(x)[0]
    assert a[0, 2] > a[0, 1]
    b = fresh("channel", 3, affinity="plus").weights(x)[0]
    assert b[0, 2] < b[0, 1]


def test_where_pixels_lie_does_not_matter() -> None:
    module, x = fresh("channel", 4), noise(1, 4, 3, 6)
    torch.testing.assert_close(module(x.flip(-1)), module(x).flip(-1))


def test_large_maps_in_half_precision_stay_finite() -> None:
    module = fresh("channel", 4).float()
    x = (noise(1, 4, 64, 64).float() * 8).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).isfinite().all()


def test_one_parameter() -> None:
    assert parameters("channel") == 1
