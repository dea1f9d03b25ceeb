"""Temporal attention looks along slices, and nowhere else."""

from __future__ import annotations

import torch
from shelf import fresh, noise, parameters, rows_of, support
from torch import nn

from napari_attnseg import create_attention


def test_equals_the_library_at_every_pixel() -> None:
    module, x = fresh("temporal", heads=2), noise(2, 8, 5, 3, 4)
    twin = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    with torch.no_grad():
        parts = (module.pairs.query, module.pairs.key, module.pairs.value)
        twin.in_proj_weight.copy_(torch.cat([p.weight.flatten(1) for p in parts]))
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        twin.out_proj.weight.copy_(module.pairs.out.weight.flatten(1))
        twin.out_proj.bias.copy_(module.pairs.out.bias)
        y = module(x)
        for i in range(3):
            for j in range(4):
                t = x[..., i, j].mT
                torch.testing.assert_close(y[..., i, j], (t + twin(t, t, t)[0]).mT)


def test_only_the_same_pixel_of_all_slices_counts() -> None:
    reached = support(fresh("temporal"), (1, 2, 0), noise(1, 8, 5, 3, 4))
    assert reached[:, 2, 0].all()
    assert reached.sum() == 5


def test_rows_lie_along_the_slices() -> None:
    row = rows_of(fresh("temporal", heads=2), (1, 2, 0), noise(1, 8, 5, 3, 4))
    assert row.shape == (1, 2, 5, 3, 4)
    torch.testing.assert_close(row[..., 2, 0].sum(-1), torch.ones(1, 2, dtype=torch.float64))


def test_parameters_and_default_heads() -> None:
    assert parameters("temporal") == 16_640
    assert create_attention("temporal", 6).pairs.heads == 3
