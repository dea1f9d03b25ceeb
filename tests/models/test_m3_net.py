"""M3-Net: two phases, split, linked and compared."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from napari_attnseg.models import create_model
from napari_attnseg.models.m3_net import CrossChannel, M3Net, TwoStreams


def small(channels: int, levels: int = 2) -> M3Net:
    torch.manual_seed(11)
    model = create_model("m3_net", in_channels=channels, width=0.0625, levels=levels)
    assert isinstance(model, M3Net)
    return model


def test_halves_are_phases_and_odd_images_are_seen_by_both() -> None:
    for channels in (2, 6):
        x = torch.rand(1, channels, 4, 4)
        one, two = TwoStreams(channels, (4, 8)).phases(x)
        assert torch.equal(one, x[:, : channels // 2])
        assert torch.equal(two, x[:, channels // 2 :])
    for channels in (1, 3):
        x = torch.rand(1, channels, 4, 4)
        assert all(p is x for p in TwoStreams(channels, (4, 8)).phases(x))


@torch.no_grad()
def test_channels_take_up_those_they_agree_with() -> None:
    torch.manual_seed(12)
    module = CrossChannel()
    x, g = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 2, 5)
    assert torch.equal(module(x, g), x)
    module.gamma.fill_(0.8)
    y = module(x, g)
    for b, c in ((0, 0), (1, 2)):
        scores = [float((x[b, c] * g[b, j]).sum()) / math.sqrt(10) for j in range(3)]
        total = sum(map(math.exp, scores))
        mixed = sum(math.exp(s) / total * g[b, j] for j, s in enumerate(scores))
        assert torch.allclose(y[b, c], x[b, c] + 0.8 * mixed, atol=1e-5)


def test_phases_hear_of_each_other_at_every_level() -> None:
    encoder = TwoStreams(2, (4, 8, 16))
    x = torch.rand(1, 2, 8, 8, requires_grad=True)
    for features in encoder(x):
        for stream in features.chunk(2, 1):
            (grad,) = torch.autograd.grad(stream.square().sum(), x, retain_graph=True)
            assert bool(grad[:, 0].any())
            assert bool(grad[:, 1].any())


@torch.no_grad()
def test_both_directions_have_attention_of_their_own() -> None:
    model = small(2).eval()
    assert [p.title.split(",")[0] for p in model.places] == [
        "positions of phase 1 in phase 2",
        "positions of phase 2 in phase 1",
        "channels of phase 1 in phase 2",
        "channels of phase 2 in phase 1",
    ]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for standing in model.across.location:
        standing.register_forward_pre_hook(lambda _, a: seen.append((a[1], a[2])))
    model(torch.rand(1, 2, 16, 16))
    (one, two), (asked, answering) = seen
    assert torch.equal(one, answering)
    assert torch.equal(two, asked)


def pair(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two phases full of the same spots; only what lights up in the second is the target."""
    spots = (torch.rand(4, 1, 4, 4, generator=generator) > 0.5).float()
    lit = (torch.rand(4, 1, 4, 4, generator=generator) > 0.5).float()
    one = F.interpolate(spots, (16, 16))
    target = F.interpolate(lit * (1 - spots), (16, 16))
    noise = 0.1 * torch.randn(4, 2, 16, 16, generator=generator)
    return torch.cat([one, torch.maximum(one, target)], 1) + noise, target


def test_what_only_both_phases_tell_is_learned() -> None:
    model = small(2, 1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(13)
    for _ in range(40):
        x, y = pair(generator)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(x), y).backward()
        optimizer.step()
    model.eval()
    x, y = pair(generator)
    with torch.no_grad():
        right = [((model(v) > 0) == (y > 0)).float().mean().item() for v in (x, x[:, [1, 1]])]
    assert right[0] > 0.95
    assert right[1] < 0.9  # the second phase alone does not tell what was there before
    assert y.mean().item() == pytest.approx(0.25, abs=0.15)
