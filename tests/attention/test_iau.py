"""Parts, frames and channels that interact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attnseg.attention.iau import ChannelUnit, InteractionUpdate, PartUnit, neighbours
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

C, PARTS = 6, 3


def features(size: tuple[int, ...]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, C, *size, dtype=torch.float64)


def randomised(module: nn.Module) -> None:
    torch.manual_seed(2)
    module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.5)


def test_who_hears_whom() -> None:
    found = neighbours(2, 3).int().tolist()
    assert found == [
        [0, 1, 1, 1, 0, 0],
        [1, 0, 1, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1, 1],
        [0, 1, 0, 1, 0, 1],
        [0, 0, 1, 1, 1, 0],
    ]


@pytest.mark.parametrize("size", [(4, 5), (2, 3, 4)])
def test_parts_by_hand(size: tuple[int, ...]) -> None:
    module = InteractionUpdate(C, PARTS, mode="parts", ndim=len(size))
    randomised(module)
    unit = module.part
    assert isinstance(unit, PartUnit)
    x = features(size)
    y = module(x).detach().numpy()
    frames = 1 if len(size) == 2 else size[0]
    w = {n: p.detach().numpy() for n, p in unit.named_parameters()}
    eps = np.sqrt(1 + 1e-5)
    for item in range(2):
        flat = x[item].numpy().reshape(C, frames, -1)
        n = flat.shape[-1]
        score = np.einsum("pc,ctn->ptn", w["parts.0.weight"][..., 0], flat) / eps
        score = score * w["parts.1.weight"][:, None, None] + w["parts.1.bias"][:, None, None]
        masks = 1 / (1 + np.exp(-score))
        p = [(masks[k, t] * flat[:, t]).sum(1) / n for t in range(frames) for k in range(PARTS)]
        heard = []
        for i in range(len(p)):
            friends = [
                j for j in range(len(p)) if (i // PARTS == j // PARTS) != (i % PARTS == j % PARTS)
            ]
            raw = np.array([w["edge.0.weight"][0] @ np.abs(p[i] - p[j]) / eps for j in friends])
            weights = np.exp(raw) / np.exp(raw).sum()
            heard.append(sum(e * p[j] for e, j in zip(weights, friends, strict=True)))
        for t in range(frames):
            nodes = []
            for k in range(PARTS):
                i = t * PARTS + k
                raw = w["node.0.weight"] @ np.concatenate([p[i], heard[i]]) / eps
                nodes.append(np.maximum(raw * w["node.1.weight"] + w["node.1.bias"], 0))
            told = w["update.weight"] @ np.concatenate([np.mean(nodes, 0), flat[:, t].mean(1)])
            told = told / eps * w["norm.weight"] + w["norm.bias"]
            expected = flat[:, t] + told[:, None]
            got = y[item].reshape(C, frames, -1)[:, t]
            np.testing.assert_allclose(got, expected, atol=1e-10)


def test_a_part_does_not_hear_itself() -> None:
    unit = PartUnit(C, PARTS, 2)
    randomised(unit)
    p = torch.randn(2, 2 * PARTS, C, dtype=torch.float64)
    edges = unit.edges(p, 2)
    torch.testing.assert_close(edges.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert torch.equal(edges != 0, neighbours(2, PARTS).expand(2, -1, -1))
    with pytest.raises(InputError, match="got parts=1, expected at least 2"):
        InteractionUpdate(C, 1)


def test_channels_by_hand() -> None:
    module = InteractionUpdate(C, mode="channels")
    randomised(module)
    unit = module.channel
    assert isinstance(unit, ChannelUnit)
    x = features((4, 5)) * 0.3
    with torch.no_grad(), recording(module) as tape:
        y = module(x)
    (record,) = tape.records
    for item in range(2):
        flat = x[item].flatten(1).numpy()
        raw = flat @ flat.T
        a = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
        np.testing.assert_allclose(record.values[item].numpy(), a, atol=1e-12)
        mixed = unit.mix.weight.detach()[..., 0, 0].numpy() @ (a @ flat)  # type: ignore[union-attr,operator,index]
        gain, shift = unit.norm.weight.detach().numpy(), unit.norm.bias.detach().numpy()
        expected = flat + mixed / np.sqrt(1 + 1e-5) * gain[:, None] + shift[:, None]
        np.testing.assert_allclose(y[item].flatten(1).numpy(), expected, atol=1e-12)
    assert (record.kind, record.values.shape) == ("matrix", (2, C, C))


@pytest.mark.parametrize(("size", "shape"), [((7, 11), (7, 11)), ((3, 5, 4), (3, 5, 4))])
def test_part_maps_lie_over_the_image(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    module = InteractionUpdate(C, PARTS, ndim=len(size)).double()
    x = features(size)
    with recording(module) as tape:
        y = module(x)
    torch.testing.assert_close(y, x)  # fresh: nothing happens
    region = tape.records[0]
    assert (region.kind, region.values.shape) == ("region", (2, PARTS, *shape))


def test_a_slice_hears_of_the_others() -> None:
    module = InteractionUpdate(C, PARTS, mode="parts", ndim=3)
    randomised(module)
    x = features((3, 4, 5)).requires_grad_()
    module(x)[0, :, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum((0, 2, 3)) > 0).all()
    assert not x.grad[1].any()
