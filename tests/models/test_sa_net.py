"""SA-Net: groups of a Res2Net block, weighed at every position."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.sa_net import GroupAttention, SANet, ScaleBlock


def test_groups_are_weighed_as_the_formula_says() -> None:
    torch.manual_seed(1)
    module = GroupAttention(6, 3).eval()
    x = torch.randn(2, 6, 3, 5)
    y = module(x)
    scores = module.score(x)
    for b, i, j in ((0, 0, 0), (1, 2, 4), (1, 1, 3)):
        raw = [math.exp(scores[b, n, i, j].item()) for n in range(3)]
        for c in range(6):
            expected = 3 * raw[c // 2] / sum(raw) * x[b, c, i, j].item()
            assert y[b, c, i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_equal_scores_change_nothing_and_sure_ones_choose_a_group() -> None:
    module = GroupAttention(8, 4)
    last = module.score[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    x = torch.randn(1, 8, 4, 4)
    assert torch.allclose(module(x), x)
    with torch.no_grad():
        last.bias[2] = 100.0
    chosen = module(x)
    assert torch.allclose(chosen[:, 4:6], 4 * x[:, 4:6])
    assert chosen[:, [0, 1, 2, 3, 6, 7]].abs().max() < 1e-30


def test_each_group_hears_of_those_before_it() -> None:
    torch.manual_seed(2)
    block = ScaleBlock(4, 8, 4, "", 1).eval()
    for parameter in block.convs.parameters():
        parameter.data.abs_()  # nothing is cut off by an activation
    x = torch.rand(1, 8, 9, 9, requires_grad=True)
    heard = []
    for group in block.groups(x).chunk(4, 1):
        (grad,) = torch.autograd.grad(group[..., 4, 4].sum(), x, retain_graph=True)
        heard.append([bool(part.any()) for part in grad.chunk(4, 1)])
    assert heard == [
        [True, False, False, False],
        [False, True, False, False],
        [False, True, True, False],
        [False, True, True, True],
    ]


@torch.no_grad()
def test_without_its_attention_all_scales_weigh_the_same() -> None:
    torch.manual_seed(3)
    model = create_model("sa_net", in_channels=3, width=0.0625, levels=2).eval()
    assert isinstance(model, SANet)
    x = torch.rand(1, 3, 21, 30)
    off = model(x, **{t.name: 0.0 for t in model.tunables})
    assert not torch.allclose(off, model(x))
    for module in model.modules():
        if isinstance(module, GroupAttention):
            last = module.score[-1]
            assert isinstance(last, nn.Conv2d)
            last.weight.zero_()
    zeroed = model(x)
    biases = [m.score[-1].bias for m in model.modules() if isinstance(m, GroupAttention)]
    for bias in biases:
        assert isinstance(bias, torch.Tensor)
        bias.zero_()
    assert torch.allclose(model(x), off, atol=1e-5)
    assert zeroed.shape == off.shape


def test_refused() -> None:
    with pytest.raises(InputError, match="scales=1"):
        create_model("sa_net", scales=1)
