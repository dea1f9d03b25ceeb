"""Swin-Unet: its published size and cost, merging and expanding of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.macs import count_macs
from napari_attnseg.models.swin_unet import Expand, Merge


def test_the_published_size_and_cost() -> None:
    """27.17 million parameters and 6.16 GFLOPs (multiply-adds) for 9 classes at 224x224."""
    with torch.device("meta"):
        model = create_model("swin_unet", in_channels=3, classes=9)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(27.17, abs=0.005)
    assert count_macs(model, (224, 224)) / 1e9 == pytest.approx(6.16, abs=0.005)
    assert [p.stride for p in model.places] == [4, 4, 8, 8, 16, 16, 32]


@torch.no_grad()
def test_four_tokens_merge_into_one() -> None:
    torch.manual_seed(1)
    merge = Merge(3).eval()
    x = torch.randn(2, 3, 6, 4)
    y = merge(x)
    assert y.shape == (2, 6, 3, 2)
    for b, i, j in ((0, 0, 0), (1, 2, 1)):
        four = torch.stack(
            [x[b, c, 2 * i + di, 2 * j + dj] for c in range(3) for di in (0, 1) for dj in (0, 1)]
        )
        normal = (four - four.mean()) / (four.var(correction=0) + merge.norm.eps).sqrt()
        assert torch.allclose(y[b, :, i, j], merge.reduce.weight[:, :, 0, 0] @ normal, atol=1e-5)


@pytest.mark.parametrize("times", [2, 4])
def test_a_token_expands_into_its_own_square(times: int) -> None:
    expand = Expand(6, 3, times)
    x = torch.randn(1, 6, 3, 5, requires_grad=True)
    y = expand(x)
    assert y.shape == (1, 3, 3 * times, 5 * times)
    square = y[..., times : 2 * times, 3 * times : 4 * times]
    (grad,) = torch.autograd.grad((square**3).sum(), x)
    assert grad.abs().sum((0, 1)).nonzero().tolist() == [[1, 3]]


def test_shifted_windows_carry_over_the_borders_of_windows() -> None:
    """A stage's first block stays in its window of 2 tokens, the second one reaches further."""
    torch.manual_seed(2)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    reach = []
    for depth in (1, 2):
        model = create_model(
            "swin_unet", in_channels=3, width=0.0625, levels=1, window=2, depth=depth
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0, 0.5)
        first = model.downs[0]  # type: ignore[index]
        answer = first({}, model.encode(x).features)[0, :, 3, 3].square().sum()
        (grad,) = torch.autograd.grad(answer, x)
        reach.append(int(grad.abs().sum((0, 1, 3)).nonzero().max()))
    assert reach == [15, 23]  # tokens 2 and 3; through 3 and 4 shifted, 2 to 5


def test_refused() -> None:
    for wrong in ({"levels": 0}, {"width": 0.0}, {"depth": 0}, {"window": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            create_model("swin_unet", **wrong)
