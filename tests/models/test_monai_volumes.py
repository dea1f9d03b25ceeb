"""Swin UNETR and UNETR over three axes: MONAI's answer and size, and the attention inside."""

from __future__ import annotations

from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.base import SegmentationModel, build
from napari_attnseg.models.swin_unetr import NETS

SMALL: dict[str, dict[str, Any]] = {
    "swin_unetr": {"width": 0.5, "window": 3, "depth": 2},
    "unetr": {"width": 0.0625, "depth": 4},
}


def made(name: str, **options: Any) -> SegmentationModel:
    torch.manual_seed(3)
    every = {**SMALL[name], "ndim": 3, **options}
    return create_model(name, in_channels=1, classes=2, **every).eval()


def rearrange(x: Tensor, pattern: str) -> Tensor:
    """What MONAI asks of its optional package: another order of axes."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(name) for name in after])


@torch.no_grad()
def test_swin_unetr_answers_as_monai_does(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = import_module(NETS)
    monkeypatch.setattr(nets, "rearrange", rearrange)
    model = made("swin_unetr")
    torch.manual_seed(3)
    theirs = nets.SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, window_size=3, spatial_dims=3
    ).eval()
    x = torch.rand(1, 1, 32, 32, 64)
    torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def test_rows_of_windows_are_those_of_queries_keys_and_biases() -> None:
    """Over windows of 3 x 3 x 3, moved by one, on a grid of 16 x 16 x 32, by a slow loop."""
    model = made("swin_unetr")
    last = model.stages[0].module.blocks[-1]  # type: ignore[index, union-attr]
    entered: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with recording(model, query=(0.4, 0.55, 0.3)) as tape:
        model(torch.rand(1, 1, 32, 32, 64))
    records = {r.name: r for r in tape.records if r.place == "stages.0.module"}
    row, grid = records["row"], (16, 16, 32)
    at = (int(0.4 * 16), int(0.55 * 16), int(0.3 * 32))
    assert row.values.shape == (1, 3, *grid)
    assert (row.geometry.ndim, row.geometry.window, row.geometry.shift) == (3, (3,) * 3, (1,) * 3)
    corner = [(n - 1) // 3 * 3 + 1 for n in at]
    keys = list(product(*(range(c, c + 3) for c in corner)))
    attention = last.attn
    q, k, _ = attention.qkv(last.norm1(entered[0]))[0].unflatten(-1, (3, 3, 4)).unbind(3)
    expected = torch.zeros(3, *grid)
    scores = torch.empty(3, len(keys))
    for n, key in enumerate(keys):
        step = 0
        for a, b in zip(at, key, strict=True):
            step = step * 5 + a - b + 2
        for head in range(3):
            product_ = q[at][head] @ k[key][head] / 4**0.5
            scores[head, n] = product_ + attention.relative_position_bias_table[step, head]
    for n, key in enumerate(keys):
        expected[(slice(None), *key)] = scores.softmax(-1)[:, n]
    torch.testing.assert_close(row.values[0], expected, atol=1e-5, rtol=0)
    assert records["received"].values.shape == (1, *grid)


def test_unetr_has_the_size_of_monais(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two dimensions: but for positions, biases and what MONAI makes and does not use."""

    class Rearrange(nn.Identity):
        """Stands for MONAI's optional package, which building needs and counting does not."""

    for module in ("selfattention", "patchembedding"):
        found = import_module(f"monai.networks.blocks.{module}")
        monkeypatch.setattr(found, "Rearrange", Rearrange)
    theirs = import_module("monai.networks.nets.unetr").UNETR
    with torch.device("meta"):
        ours = create_model("unetr", in_channels=1, classes=2, ndim=3)
        monai = theirs(1, 2, img_size=64, spatial_dims=3)
    used = sum(p.numel() for name, p in monai.named_parameters() if "cross" not in name)
    expected = used - 4**3 * 768 + 12 * 3 * 768
    assert sum(p.numel() for p in ours.parameters()) == expected


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("size", [(7, 11, 13), (17, 32, 33)])
def test_any_size(name: str, size: tuple[int, int, int]) -> None:
    model = made(name, depth=4 if name == "unetr" else 1)
    x = torch.rand(1, 1, *size)
    with recording(model, query=(0.5, 0.2, 0.9)) as tape:
        found = model(x)
    assert found.shape == (1, 2, *size)
    assert torch.isfinite(found).all()
    assert len(model.places) == 4
    grids = {p.module: [n // p.stride for n in model.padded_size(size)] for p in model.places}
    for record in tape.records:
        grid = list(record.values.shape[-3:])
        assert grid == grids[record.place], (record.place, record.name)
    assert {r.name for r in tape.records} >= {"received", "row"}
    off = model(x, **{level: 0.0 for level in ("level_1", "level_2", "level_3", "level_4")})
    assert not torch.allclose(off, found)
    again = build(model.spec)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), found)


@torch.no_grad()
def test_tokens_of_unetr_know_where_they_are_along_every_axis() -> None:
    tokens = made("unetr").encode(torch.ones(1, 1, 32, 32, 32)).features[0]
    first = tokens[:, 0, 0, 0]
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.allclose(tokens[(slice(None), *other)], first)


def test_other_axes_are_refused() -> None:
    for name in SMALL:
        with pytest.raises(InputError, match="ndim"):
            create_model(name, ndim=4)
