"""DDANet: both decoders by hand, and what the second one learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attentive_models import made, off, padded, parameters, picture
from napari_attnseg.attention.se import SqueezeExcitation
from napari_attnseg.models.dda_net import DDANet


def test_dda_net_has_the_published_number_of_parameters() -> None:
    assert parameters("dda_net", 1) == 6_835_638


def test_dda_net_shows_its_gates_and_its_shortcuts() -> None:
    model = made("dda_net")
    named = dict(model.named_modules())
    gates = [p for p in model.places if p.level]
    assert [p.stride for p in gates] == [1, 2, 4, 8]
    shortcuts = {id(named[p.module]) for p in model.places if not p.level}
    assert shortcuts == {id(m) for m in model.modules() if isinstance(m, SqueezeExcitation)}


@pytest.mark.parametrize("attended", [False, True])
@torch.no_grad()
def test_dda_net_by_hand(attended: bool) -> None:
    x = picture()
    model = made("dda_net")
    assert isinstance(model, DDANet)
    y, skips = padded(x, 16), []
    for blocks in model.encoder:
        skips.append(blocks(y))
        y = F.max_pool2d(skips[-1], 2)
    s = a = y
    for level in (3, 2, 1, 0):
        s, a = model.steps[level](s, skips[level]), model.painter[level](a, skips[level])
        conv = model.gates[level].module.score
        if attended:
            score = (a * conv.weight[0]).sum(1, keepdim=True) + conv.bias
            s = s / (1 + torch.exp(-score))
    expected = model.head(s)[..., :33, :47]
    strengths = {} if attended else off(model)
    torch.testing.assert_close(model(x, **strengths), expected)


def test_dda_net_paints_the_image_in_grey() -> None:
    x = picture()
    model = made("dda_net")
    assert isinstance(model, DDANet)
    model(x)
    assert model.regulariser is None
    model.train()
    for parameter in model.picture.parameters():
        nn.init.constant_(parameter, 0.0)
    model(x)
    assert model.regulariser is not None
    assert model.regulariser.item() == pytest.approx(((x[:, 0] + x[:, 1]) / 2).square().mean())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        model.encode(x)
        assert model.regulariser is not None
        losses.append(model.regulariser.item())
        optimizer.zero_grad()
        model.regulariser.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
