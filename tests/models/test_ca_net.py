"""CA-Net: the network around its attention by hand, and its parts from their formulas."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn import functional as F

from attentive_models import made, off, padded, parameters, picture
from napari_attnseg.models.ca_net import CANet, DualGate, MeanAndMaximum


@torch.no_grad()
def test_ca_net_without_attention_is_a_unet_of_residual_blocks() -> None:
    x = picture()
    model = made("ca_net")
    assert isinstance(model, CANet)
    *skips, y = model.encoder(padded(x, 16))
    outputs = []
    for level in (3, 2, 1, 0):
        block = model.blocks[level]
        y = torch.cat([skips[level], model.ups[level](y)], 1)
        y = block.third(F.relu(block.second(block.first(y)) + block.shortcut(y)))
        outputs.insert(0, y)
    expected = model.head(model.scales.module(outputs))[..., :33, :47]
    assert torch.equal(model(x, **off(model)), expected)
    assert not torch.allclose(model(x), expected, atol=1e-3)


def test_ca_net_weighs_what_its_description_says() -> None:
    widths = (16, 32, 64, 128, 256)
    total = 0
    for inside, own in zip((3, *widths), widths, strict=False):
        total += 9 * own * (inside + own) + 4 * own  # two convolutions, normalised
    for own, below in pairwise(widths):
        total += 4 * below * own + own  # up-convolution
        total += 9 * own * 2 * own + 2 * own  # decoder: three convolutions, shortcut, channel MLP
        total += 2 * (9 * own * 2 * own) + 4 * own + 2 * own
        total += 2 * own * 2 * own + 4 * own
        total += 2 * (2 * own * own // 2) + own // 2 + 2 * own
    for own, below in ((32, 64), (64, 128)):  # theta, phi, psi and W of two gates; their join
        total += 2 * (own * own + below * own + own + own + 1 + own * own + own + 2 * own)
        total += 2 * own * own + 2 * own
    total += 4 * 256 * 64 + 3 * 64 + 256  # non-local
    total += 4 * sum(widths[:4]) + 16 + (16 * 4 + 4 + 4 * 16 + 16)  # four scales of four channels
    total += (9 * 4 * 16 + 16) + (4 * 4 + 4) + (9 * 16 * 4 + 2 * 4)
    total += 4 * 2 + 2  # head
    assert parameters("ca_net", 2) == total


def test_where_attention_stands_in_ca_net() -> None:
    places = made("ca_net").places
    assert [p.stride for p in places] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert [p.title for p in places if not p.level] == [
        "all decoder outputs, scales, full resolution"
    ]


@torch.no_grad()
def test_channel_weights_of_means_and_of_maxima() -> None:
    torch.manual_seed(1)
    module, x = MeanAndMaximum(8), torch.randn(2, 8, 5, 7)
    first, _, second = module.mlp
    for b in range(2):
        weight = torch.zeros(8)
        for pooled in (x[b].flatten(1).mean(1), x[b].flatten(1).max(1).values):
            hidden = (first.weight @ pooled + first.bias).clamp(min=0)
            weight += 1 / (1 + torch.exp(-(second.weight @ hidden + second.bias)))
        torch.testing.assert_close(module(x)[b], x[b] * weight[:, None, None])


@torch.no_grad()
def test_two_gates_with_one_context() -> None:
    torch.manual_seed(1)
    module = DualGate(4, 6).eval()
    skip, below = torch.randn(1, 4, 8, 10), torch.randn(1, 6, 4, 5)
    passed = []
    for gate in module.gates:
        score = gate.skip(skip) + F.interpolate(gate.context(below), (8, 10), mode="bilinear")
        passed.append(gate.out(skip * torch.sigmoid(gate.psi(F.relu(score)))))
    expected = module.join(torch.cat(passed, 1))
    torch.testing.assert_close(module(skip, below), expected)
