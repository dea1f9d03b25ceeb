"""Cross-attention and U-Net Transformer's gate against loops; one context token; other grids."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, filled, fresh, noise, parameters, rows_of

from napari_attnseg import create_attention
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.vit import sinusoid
from napari_attnseg.errors import InputError


def made(variant: str):
    return filled(create_attention("cross", 8, context_channels=6, variant=variant, heads=2))


def test_cross_equals_the_slow_twin_with_a_context_on_another_grid() -> None:
    module, skip, context = made("cross"), noise(1, 8, 5, 7), noise(1, 6, 3, 4)
    p, s, g = arrays(module), skip[0].numpy(), context[0].numpy()
    q = slow.project(s, p["pairs.query.weight"])
    k, v = (slow.project(g, p[f"pairs.{n}.weight"]) for n in ("key", "value"))
    mixed = slow.attend(q, k, v, slow.everywhere, heads=2)
    expected = s + slow.project(mixed, p["pairs.out.weight"], p["pairs.out.bias"])
    with torch.no_grad():
        np.testing.assert_allclose(module(skip, context)[0].numpy(), expected, atol=1e-12)
    row = rows_of(module, (4, 6), skip, context)
    assert row.shape == (1, 2, 3, 4)
    head = slow.row(q[4:], k[4:], (4, 6), slow.everywhere, 0.5)
    np.testing.assert_allclose(row[0, 1], head, atol=1e-12)


def test_the_gate_of_unet_transformer_equals_the_slow_twin() -> None:
    module, skip, context = made("mhca"), noise(1, 8, 6, 8), noise(1, 6, 3, 4)
    p = arrays(module)
    like = torch.zeros(1, dtype=torch.float64)
    s = skip[0].numpy() + sinusoid((6, 8), 8, like).numpy()
    g = context[0].numpy() + sinusoid((3, 4), 6, like).numpy()
    pooled = s.reshape(8, 3, 2, 4, 2).max((2, 4))
    q, k = (slow.project(g, p[f"pairs.{n}.weight"]) for n in ("query", "key"))
    v = slow.project(pooled, p["pairs.value.weight"])
    z = slow.attend(q, k, v, slow.everywhere, heads=2)
    z = slow.project(z, p["pairs.out.weight"], p["pairs.out.bias"])
    up = torch.nn.functional.interpolate(
        torch.from_numpy(z)[None], (6, 8), mode="bilinear", align_corners=False
    )
    with torch.no_grad(), recording(module) as tape:
        y = module(skip, context)
    gate = torch.sigmoid(up)
    torch.testing.assert_close(y, skip * gate)
    (shown,) = (r.values for r in tape.records if r.name == "gate")
    torch.testing.assert_close(shown, gate)


def test_one_context_token_answers_every_query_alike() -> None:
    module, skip = made("cross"), noise(1, 8, 5, 7)
    added = module(skip, noise(1, 6, 1, 1)) - skip
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added))


def test_rows_of_the_gate_lie_on_the_coarse_grid() -> None:
    module, skip, context = made("mhca"), noise(1, 8, 6, 8), noise(1, 6, 3, 4)
    row = rows_of(module, (5, 7), skip, context)
    assert row.shape == (1, 2, 3, 4)
    torch.testing.assert_close(row.sum((-1, -2)), torch.ones(1, 2, dtype=torch.float64))
    with torch.no_grad(), recording(module) as tape:
        module(skip, context)
    assert tape.records[0].geometry.stride == (2.0, 2.0)
    assert tape.records[0].geometry.offset == (0.5, 0.5)


def test_both_forms_as_operators() -> None:
    for variant in ("cross", "mhca"):
        module = fresh("cross", variant=variant)
        skip, context = noise(2, 8, 3, 4), noise(2, 8, 3, 4, seed=9)
        a, v = module.operator(skip, context), module.values(skip, context)
        mixed = torch.einsum("bmij,bmcj->bmci", a, v)
        torch.testing.assert_close(module.collect(mixed, skip, context), module(skip, context))


def test_parameters_and_options() -> None:
    assert parameters("cross", context_channels=64) == 16_448
    with pytest.raises(InputError, match="got variant='self'"):
        create_attention("cross", 8, variant="self")
