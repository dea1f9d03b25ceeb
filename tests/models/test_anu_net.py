"""ANU-Net against the recursion of its nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentive_models import made, off, padded, picture
from napari_attnseg.errors import InputError
from napari_attnseg.models.anu_net import ANUNet
from napari_attnseg.models.base import create_model


def nested(model: ANUNet, x: Tensor, i: int, j: int) -> Tensor:
    """Node j of level i, by the recursion of the paper."""
    if j == 0:
        return model.encoder(padded(x, model.stride))[i]
    node = model.nodes[j - 1][i]
    up = node.up(nested(model, x, i + 1, j - 1))
    across = torch.cat([nested(model, x, i, k) for k in range(j)], 1)
    if node.gate is not None:
        gate = node.gate.module
        across = across * torch.sigmoid(gate.psi(F.relu(gate.skip(across) + gate.context(up))))
    return node.block(torch.cat([across, up], 1))


@pytest.mark.parametrize(("gates", "count"), [("all", 6), ("last", 3), ("none", 0)])
@torch.no_grad()
def test_anu_net_is_the_recursion(gates: str, count: int) -> None:
    x = picture()
    model = made("anu_net", gates=gates)
    assert isinstance(model, ANUNet)
    assert len(model.places) == len(model.tunables) == count
    expected = model.heads[-1](nested(model, x, 0, 3))[..., :33, :47]
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_anu_net_with_open_gates_is_the_nested_unet() -> None:
    x = picture()
    model, plain = made("anu_net"), made("anu_net", gates="none")
    left = plain.load_state_dict(model.state_dict(), strict=False)
    assert not left.missing_keys
    assert all(".gate." in key for key in left.unexpected_keys)
    assert torch.equal(model(x, **off(model)), plain(x))


@torch.no_grad()
def test_anu_net_learns_from_all_nodes_of_the_finest_level() -> None:
    x = picture()
    model = made("anu_net")
    assert isinstance(model, ANUNet)
    model(x)
    assert model.auxiliary == ()
    model.train()
    for module in model.modules():  # running statistics, so that the recursion gives the same
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    model(x)
    assert len(model.auxiliary) == 2
    for j, scores in enumerate(model.auxiliary):
        expected = model.heads[j](nested(model, x, 0, j + 1))[..., :33, :47]
        torch.testing.assert_close(scores, expected)


def test_anu_net_says_what_it_cannot_build() -> None:
    with pytest.raises(InputError, match="levels=0"):
        create_model("anu_net", levels=0)
    with pytest.raises(InputError, match="one of all, last, none"):
        create_model("anu_net", gates="some")
