"""Windows against loops and MONAI; what shifting reaches; sizes that windows do not divide."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, filled, fresh, noise, parameters, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.swin import WindowPairwise
from napari_attnseg.errors import InputError


def windows(window: int = 3, heads: int = 2, shift: int = 0, ndim: int = 2) -> WindowPairwise:
    return filled(WindowPairwise(8, window, heads, shift, ndim))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("window", "shift"), [(3, 0), (3, 1), (4, 2), (9, 4)])
def test_equals_the_slow_twin(window: int, shift: int) -> None:
    module, x = windows(window, 2, shift), noise(1, 8, 5, 7)
    p, item = arrays(module), x[0].numpy()
    q, k, v = (
        slow.project(item, p[f"{n}.weight"], p[f"{n}.bias"]) for n in ("query", "key", "value")
    )
    width = 2 * window - 1

    def bias(q: np.ndarray, k: np.ndarray, dy: int, dx: int, m: int) -> float:
        return float(p["bias"][(window - 1 - dy) * width + window - 1 - dx, m])

    seen = slow.block(window, shift if window < 5 else 0)
    mixed = slow.attend(q, k, v, seen, heads=2, extra=bias)
    expected = slow.project(mixed, p["out.weight"], p["out.bias"])
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_window_equals_monai(ndim: int) -> None:
    swin = pytest.importorskip("monai.networks.nets.swin_unetr")
    ours, size = windows(3, 2, 0, ndim), (3,) * ndim
    theirs = swin.WindowAttention(8, 2, size, qkv_bias=True).double().eval()
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.relative_position_bias_table.copy_(ours.bias)
        theirs.qkv.weight.copy_(torch.cat([p.weight.flatten(1) for p in parts]))
        theirs.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.proj.weight.copy_(ours.out.weight.flatten(1))
        theirs.proj.bias.copy_(ours.out.bias)
        x = noise(2, 8, *(2 * n for n in size))
        cut = x[(..., *(slice(3, 6),) * ndim)]
        expected = theirs(cut.flatten(2).mT, None).mT.view_as(cut)
        torch.testing.assert_close(ours(x)[(..., *(slice(3, 6),) * ndim)], expected)


def test_a_shifted_block_equals_monai_where_windows_divide_the_map() -> None:
    """MONAI rolls the map and masks what wrapped around; we deal the windows out as they lie."""
    swin = pytest.importorskip("monai.networks.nets.swin_unetr")
    module = fresh("swin", window=4, heads=2, depth=2)
    x = noise(2, 8, 8, 12)
    y, mask = x, swin.compute_mask([8, 12], (4, 4), (2, 2), "cpu").double()
    with torch.no_grad():
        for block, shift in zip(module.blocks, ((0, 0), (2, 2)), strict=True):
            theirs = swin.SwinTransformerBlock(8, 2, (4, 4), shift, mlp_ratio=4.0).double().eval()
            parts = (block.pairs.query, block.pairs.key, block.pairs.value)
            copied = {
                theirs.attn.relative_position_bias_table: block.pairs.bias,
                theirs.attn.qkv.weight: torch.cat([p.weight.flatten(1) for p in parts]),
                theirs.attn.qkv.bias: torch.cat([p.bias for p in parts]),
                theirs.attn.proj.weight: block.pairs.out.weight.flatten(1),
                theirs.attn.proj.bias: block.pairs.out.bias,
                theirs.norm1.weight: block.before.weight,
                theirs.norm1.bias: block.before.bias,
                theirs.norm2.weight: block.after.weight,
                theirs.norm2.bias: block.after.bias,
                theirs.mlp.linear1.weight: block.mlp[0].weight.flatten(1),
                theirs.mlp.linear1.bias: block.mlp[0].bias,
                theirs.mlp.linear2.weight: block.mlp[2].weight.flatten(1),
                theirs.mlp.linear2.bias: block.mlp[2].bias,
            }
            for to, source in copied.items():
                to.copy_(source)
            y = theirs(y.movedim(1, -1), mask).movedim(-1, 1)
        torch.testing.assert_close(module(x), y)


def test_one_window_is_attention_over_everything() -> None:
    module, x = windows(8, 2), noise(1, 8, 5, 7)
    with torch.no_grad():
        module.bias.zero_()
        q, k, v = (t[0].flatten(2).mT for t in module.parts(x))
        full = torch.softmax(q @ k.mT / 2, -1) @ v
        expected = module.out(full.mT.reshape(1, 8, 5, 7))
        torch.testing.assert_close(module(x), expected)


def test_a_shifted_window_is_reached_and_no_corner_wraps_around() -> None:
    x = noise(1, 8, 8, 8)
    plain, shifted = windows(4), windows(4, shift=2)
    assert support(plain, (1, 1), x).nonzero().amax() == 3
    assert support(shifted, (3, 3), x).nonzero().min() == 2
    corner = support(shifted, (0, 0), x)
    assert corner.sum() == 4
    assert corner[:2, :2].all()


def test_rows_tell_the_window() -> None:
    module, x = fresh("swin", window=4), noise(1, 8, 8, 8)
    with torch.no_grad(), recording(module, (0.5, 0.5)) as tape:
        module(x)
    row = tape.records[-1]
    assert (row.geometry.window, row.geometry.shift) == ((4, 4), (2, 2))
    assert (row.values[0, 0] > 0).sum() == 16
    assert row.values[0, 0, 2:6, 2:6].min() > 0
    torch.testing.assert_close(rows_of(module, (4, 4), x), row.values)


def test_parameters_and_options() -> None:
    attention = WindowPairwise(64, 7, 4, 0, 2)
    assert sum(p.numel() for p in attention.parameters()) == 17_316
    assert parameters("swin", heads=4, depth=1, mlp_ratio=0.0) == 17_316 + 2 * 64
    with pytest.raises(InputError, match="got window=0"):
        create_attention("swin", 8, window=0)
