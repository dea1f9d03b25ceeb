"""CaraNet: the encoder's published size, the pyramid's reach, axes that are really two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.cara_net import AxialReverse, CaraNet, FeaturePyramid
from napari_attnseg.models.res2net import Bottle2neck, Res2Net


def small(classes: int = 1) -> CaraNet:
    torch.manual_seed(6)
    model = create_model("cara_net", in_channels=3, classes=classes, plan="tiny", width=0.125)
    assert isinstance(model, CaraNet)
    return model.eval()


@pytest.mark.parametrize(("plan", "millions"), [("50", 25.7), ("101", 45.2)])
def test_the_encoder_has_its_published_size(plan: str, millions: float) -> None:
    """Of Res2Net-50 and -101 (26w x 4s) with their classifier of 1000 classes."""
    with torch.device("meta"):
        count = sum(p.numel() for p in Res2Net(3, plan).parameters())
    assert (count + 2048 * 1000 + 1000) / 1e6 == pytest.approx(millions, abs=0.05)


def test_groups_add_up_but_not_where_a_grid_begins() -> None:
    torch.manual_seed(7)
    for first, heard in ((False, [1, 2, 3, 1]), (True, [1, 1, 1, 1])):
        block = Bottle2neck(16, 16, 16, 4, 1, first).eval()
        x = torch.rand(1, 16, 7, 7)
        reduced = block.reduce(x).detach().requires_grad_()
        block.reduce = nn.Identity()  # type: ignore[assignment]
        grabbed: list[torch.Tensor] = []
        block.expand.register_forward_pre_hook(lambda _, a, kept=grabbed: kept.append(a[0]))
        block.shortcut = nn.Identity()
        block.expand[0] = nn.Conv2d(24, 24, 1)
        block.expand[1] = nn.BatchNorm2d(24)
        block(reduced)
        counts = []
        for group in grabbed[0].chunk(4, 1):
            (grad,) = torch.autograd.grad(group.sum(), reduced, retain_graph=True)
            counts.append(sum(bool(part.any()) for part in grad.chunk(4, 1)))
        assert counts == heard


def test_the_pyramid_reaches_as_far_as_its_dilations() -> None:
    torch.manual_seed(8)
    pyramid = FeaturePyramid(16).eval()
    for parameter in pyramid.parameters():
        parameter.data.abs_()  # nothing is cut off by an activation
    x = torch.rand(1, 16, 65, 65, requires_grad=True)
    (grad,) = torch.autograd.grad(pyramid(x)[..., 32, 32].abs().sum(), x)
    rows = grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (32 - 28, 32 + 28)  # 1 + 3 x 9
    nn.init.zeros_(pyramid.leave[-1].weight)  # type: ignore[arg-type]
    assert torch.equal(pyramid(x), x)


def test_columns_and_rows_are_two_axes() -> None:
    """Twice the same axis would leave most of the map out of reach of a position."""
    torch.manual_seed(9)
    module = AxialReverse(8).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.7)
    x = torch.rand(1, 8, 11, 13, requires_grad=True)
    y = module(x, torch.zeros(1, 1, 3, 4))
    (grad,) = torch.autograd.grad(y[0, :, 2, 3].sum(), x)
    assert bool((grad.abs().sum((0, 1)) > 0).all())


@torch.no_grad()
def test_what_is_found_is_taken_away() -> None:
    module = AxialReverse(4).eval()
    x, scores = torch.rand(1, 4, 5, 7), torch.randn(1, 3, 5, 7)
    looked = module.look(x)
    assert torch.allclose(module(x, scores), looked * torch.softmax(scores, 1)[:, :1], atol=1e-6)
    one = scores[:, :1]
    assert torch.allclose(module(x, one), looked * (1 - torch.sigmoid(one)), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("classes", [1, 3])
def test_levels_add_to_the_map_so_far(classes: int) -> None:
    model = small(classes)
    x = torch.rand(1, 3, 67, 45)
    encoded = model.encode(x)
    assert encoded.features.shape == (1, classes, 12, 8)
    for level in model.levels:
        last = level.refine[-1]  # type: ignore[index, union-attr]
        last.weight.zero_()
        last.bias.zero_()
    coarse = model.decode(encoded.features, encoded.size)
    through = nn.functional.interpolate(encoded.features, (3, 2), mode="bilinear")
    for size in ((6, 4), (12, 8), (96, 64)):
        through = nn.functional.interpolate(through, size, mode="bilinear")
    assert torch.allclose(model(x), through[..., :67, :45], atol=1e-5)
    model.train()
    model(x.expand(2, -1, -1, -1))
    assert [tuple(m.shape) for m in model.auxiliary] == [(2, classes, 67, 45)] * 3
    assert coarse.shape == (1, classes, 67, 45)
    model.eval()(x)
    assert model.auxiliary == ()


def test_refused() -> None:
    with pytest.raises(InputError, match=r"plan=.152"):
        create_model("cara_net", plan="152")
