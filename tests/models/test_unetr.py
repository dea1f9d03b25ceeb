"""UNETR: MONAI's size and order of blocks, positions for any image size."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.unetr import UNETR


def made(**options: Any) -> UNETR:
    torch.manual_seed(3)
    small = {"width": 0.0625, "depth": 4, **options}
    model = create_model("unetr", in_channels=1, classes=2, **small)
    assert isinstance(model, UNETR)
    return model.eval()


def test_it_has_the_size_of_monais(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for positions, which are not learned, biases of queries, keys and values, and what MONAI
    makes for attention to another map and does not use."""

    class Rearrange(nn.Identity):
        """Stands for MONAI's optional package, which building needs and counting does not."""

    for module in ("selfattention", "patchembedding"):
        found = import_module(f"monai.networks.blocks.{module}")
        monkeypatch.setattr(found, "Rearrange", Rearrange)
    theirs = import_module("monai.networks.nets.unetr").UNETR
    with torch.device("meta"):
        ours = create_model("unetr", in_channels=3, classes=2)
    monai = theirs(3, 2, img_size=64, spatial_dims=2)
    used = (p for name, p in monai.named_parameters() if "cross" not in name)
    count = sum(p.numel() for p in used)
    expected = count - 4 * 4 * 768 + 12 * 3 * 768
    assert sum(p.numel() for p in ours.parameters()) == expected


@torch.no_grad()
def test_skips_leave_the_transformer_where_they_should() -> None:
    model = made()
    encoded = model.encode(torch.rand(1, 1, 48, 64))
    tokens = [encoded.features]
    for part in model.parts:
        tokens.append(part({}, tokens[-1]))
    skips = [skip(t) for skip, t in zip(model.skips[1:], tokens[1:4], strict=True)]
    assert [s.shape[-1] for s in skips] == [32, 16, 8]
    y = model.norm(tokens[4])
    for up, skip in zip(reversed(model.ups[1:]), reversed(skips), strict=True):
        y = up(y, skip)
    y = model.ups[0](y, encoded.skips[0])
    assert torch.allclose(model.gate(encoded), y, atol=1e-5)


@torch.no_grad()
def test_places_of_patches_count() -> None:
    model = made()
    same = torch.ones(1, 1, 64, 64)
    tokens = model.encode(same).features
    assert not torch.allclose(tokens[..., 0, 0], tokens[..., 2, 3])
    assert model(torch.rand(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_refused() -> None:
    with pytest.raises(InputError, match="depth=6"):
        create_model("unetr", depth=6)
