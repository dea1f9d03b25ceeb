"""count_macs against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from napari_attnseg import create_model
from napari_attnseg.attention import functional
from napari_attnseg.errors import InputError
from napari_attnseg.models.macs import count_macs


@pytest.mark.parametrize(
    ("layer", "by_hand"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 11 * 14 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), 6 * 7 * 8 * 3 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 11 * 14 * 6 * 9),
        (nn.Conv2d(3, 8, 3, padding=2, dilation=2), 11 * 14 * 8 * 3 * 9),
        (nn.ConvTranspose2d(3, 8, 4, 2, 1), 11 * 14 * 8 * 3 * 16),
        (nn.ConvTranspose2d(3, 6, 2, 2, groups=3), 11 * 14 * 6 * 4),
        (nn.Linear(14, 5), 3 * 11 * 14 * 5),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 0),
    ],
)
def test_layers_by_hand(layer: nn.Module, by_hand: int) -> None:
    assert count_macs(layer, (11, 14), in_channels=3) == by_hand


def test_three_axes() -> None:
    layer = nn.Conv3d(2, 4, 3, padding=1)
    assert count_macs(layer, (5, 7, 9), in_channels=2) == 5 * 7 * 9 * 4 * 2 * 27


class Attention(nn.Module):
    """Streamed attention of an image over itself; blocks of one image row when ``tight``."""

    def __init__(self, tight: bool) -> None:
        super().__init__()
        self.block_bytes = 1 if tight else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT.contiguous()
        grid = functional.Grid(x.shape[2], x.shape[3], 1.0, self.block_bytes)
        return functional.attend(tokens, tokens, tokens, grid)[0]


@pytest.mark.parametrize("tight", [True, False])
def test_streamed_attention_counts_like_the_whole_matrix(tight: bool) -> None:
    n, c = 7 * 13, 5
    assert count_macs(Attention(tight), (7, 13), in_channels=c) == 2 * n * n * c


class Library(nn.Module):
    """PyTorch's own attention."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT.unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_the_librarys_attention() -> None:
    assert count_macs(Library(), (7, 13), in_channels=5) == 2 * 91 * 91 * 5


class Curious(nn.Module):
    """A forward that looks at its numbers, which shapes alone do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 1)
        self.attention = Library()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.attention(y) if float(y.abs().sum()) > -1 else y


def test_a_forward_that_needs_its_numbers() -> None:
    assert count_macs(Curious(), (5, 5), in_channels=2) == 25 * 8 + 2 * 25 * 25 * 4


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("smooth_unet", in_channels=1, width=0.125, stride=8)
    model.train()
    model.encoder.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    assert count_macs(model, (24, 16)) > 0
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_smooth_unet_of_the_paper() -> None:
    model = create_model("smooth_unet", in_channels=3)
    assert count_macs(model, (224, 224)) / 1e9 == pytest.approx(1.964, abs=0.006)


def test_bad_questions() -> None:
    with pytest.raises(InputError, match="give in_channels"):
        count_macs(nn.Conv2d(3, 3, 1), (8, 8))
    with pytest.raises(InputError, match="at least 1 pixel"):
        count_macs(nn.Conv2d(3, 3, 1), (0, 8), in_channels=3)
