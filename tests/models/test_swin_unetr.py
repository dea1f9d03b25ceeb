"""Swin UNETR: MONAI's answer, number for number, and the attention inside it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from napari_attnseg.attention.neighbourhood import Blocks
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model, monai_parts
from napari_attnseg.models.swin_unetr import NETS, SwinUNETR

SMALL: dict[str, Any] = {"width": 0.5, "window": 4}


def made(**options: Any) -> SwinUNETR:
    torch.manual_seed(3)
    model = create_model("swin_unetr", in_channels=1, classes=2, **{**SMALL, **options})
    assert isinstance(model, SwinUNETR)
    return model.eval()


def rearrange(x: Tensor, pattern: str) -> Tensor:
    """What MONAI asks of its optional package: another order of axes."""
    before, after = (side.split() for side in pattern.split("->"))
    return x.permute([before.index(name) for name in after])


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (96, 160)])
def test_it_answers_as_monai_does(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    nets = import_module(NETS)
    monkeypatch.setattr(nets, "rearrange", rearrange)
    model = made()
    torch.manual_seed(3)
    theirs = nets.SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, window_size=4, spatial_dims=2
    ).eval()
    x = torch.rand(2, 1, *size)
    assert torch.allclose(model(x), theirs(x), atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def test_rows_are_those_of_its_queries_keys_and_biases() -> None:
    model = made()
    stage = model.stages[0].module
    last = stage.blocks[-1]  # type: ignore[index, union-attr]
    x = torch.rand(1, 1, 64, 96)
    entered: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with recording(model, query=(0.55, 0.3)) as tape:
        model(x)
    records = {r.name: r for r in tape.records if r.place == "stages.0.module"}
    row = records["row"]
    at = (int(0.55 * 32), int(0.3 * 48))
    assert row.values.shape == (1, 3, 32, 48)
    assert row.geometry.window == (4, 4)
    assert row.geometry.shift == (2, 2)
    attention = last.attn
    q, k, _ = attention.qkv(last.norm1(entered[0]))[0].unflatten(-1, (3, 3, 4)).unbind(2)
    keys = Blocks((4, 4), (2, 2)).keys(at, (32, 48)).tolist()
    assert set(row.values[0, 0].flatten().nonzero().flatten().tolist()) == set(keys)
    scores = torch.empty(3, len(keys))
    for n, key in enumerate(keys):
        there = divmod(key, 48)
        step = (at[0] - there[0] + 3) * 7 + at[1] - there[1] + 3
        for head in range(3):
            product = q[at][head] @ k[there][head] / 4**0.5
            scores[head, n] = product + attention.relative_position_bias_table[step, head]
    assert torch.allclose(row.values[0].flatten(1)[:, keys], scores.softmax(-1), atol=1e-5)
    received = records["received"].values
    assert received.shape == (1, 32, 48)
    assert received.sum().item() == pytest.approx(1.0, abs=1e-4)  # windows fill this grid evenly


@torch.no_grad()
def test_what_fills_up_a_window_takes_part_in_it() -> None:
    """On 48 positions a side windows of 5 need filling up, and the last one holds what fills."""
    model = made(window=5)
    with recording(model, query=(0.99, 0.99)) as tape:
        model(torch.rand(1, 1, 96, 96))
    sums = {r.place: r.values.sum((-2, -1)) for r in tape.records if r.name == "row"}
    assert all(bool((s > 0).all() and (s < 1 + 1e-5).all()) for s in sums.values())
    assert sums["stages.0.module"].max() < 0.99


@torch.no_grad()
def test_the_smallest_images() -> None:
    assert made(depth=1)(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_a_monai_without_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(monai_parts, "import_module", absent)
    for name in ("swin_unetr", "unetr"):
        with pytest.raises(InputError, match=r"pip install 'monai>=1\.5'"):
            create_model(name)


def test_refused() -> None:
    with pytest.raises(InputError, match="depth=0"):
        create_model("swin_unetr", depth=0)
