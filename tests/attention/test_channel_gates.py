"""Gates by channel: squeeze-and-excitation, ECA, second-order pooling, frequencies."""

from __future__ import annotations

from math import cos, pi, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attnseg.attention import create_attention
from napari_attnseg.attention.eca import EfficientChannel, eca_kernel
from napari_attnseg.attention.frequency import FrequencyChannel, basis
from napari_attnseg.attention.gsop import SecondOrderPooling, covariance
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.se import SqueezeExcitation
from napari_attnseg.errors import InputError

C = 24
SIZES = [(7, 11), (3, 5, 4)]


def features(size: tuple[int, ...], channels: int = C, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(2, channels, *size, dtype=torch.float64)


def randomised(module: nn.Module) -> None:
    """In evaluation mode with random numbers everywhere."""
    module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.5)


def zeroed(module: nn.Module) -> None:
    """All weights and biases 0; normalisations keep their scale."""
    module.double().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                for p in part.parameters():
                    p.zero_()


def sigmoid(v: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-v)))


@pytest.mark.parametrize("name", ["se", "eca", "gsop", "frequency", "pointwise"])
@pytest.mark.parametrize("size", SIZES)
def test_without_weights_half_of_the_features_pass(name: str, size: tuple[int, ...]) -> None:
    module = create_attention(name, C, ndim=len(size))
    zeroed(module)
    x = features(size)
    torch.testing.assert_close(module(x), x / 2)


# --- squeeze-and-excitation -----------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_se_by_hand(size: tuple[int, ...], bias: bool) -> None:
    module = SqueezeExcitation(C, reduction=5, bias=bias)
    randomised(module)
    x = features(size)
    w1, w2 = (module.mlp[i].weight.detach().numpy() for i in (0, 2))
    b1, b2 = (module.mlp[i].bias.detach().numpy() if bias else 0.0 for i in (0, 2))
    assert w1.shape == (4, C)
    for item in range(2):
        z = np.array([x[item, c].numpy().mean() for c in range(C)])
        s = sigmoid(w2 @ np.maximum(w1 @ z + b1, 0) + b2)
        expected = np.stack([x[item, c].numpy() * s[c] for c in range(C)])
        np.testing.assert_allclose(module(x)[item].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["se", "eca", "gsop"])
def test_where_things_lie_does_not_matter(name: str) -> None:
    module = create_attention(name, C)
    randomised(module)
    x = features((6, 8))
    order = torch.randperm(48)
    shuffled = x.flatten(2)[..., order].unflatten(2, (6, 8))
    expected = module(x).flatten(2)[..., order].unflatten(2, (6, 8))
    torch.testing.assert_close(module(shuffled), expected)


def test_se_follows_an_exchange_of_channels() -> None:
    module, other = SqueezeExcitation(C), SqueezeExcitation(C)
    randomised(module)
    randomised(other)
    order = torch.randperm(C)
    with torch.no_grad():
        other.mlp[0].weight.copy_(module.mlp[0].weight[:, order])
        other.mlp[0].bias.copy_(module.mlp[0].bias)
        other.mlp[2].weight.copy_(module.mlp[2].weight[order])
        other.mlp[2].bias.copy_(module.mlp[2].bias[order])
    x = features((5, 4))
    torch.testing.assert_close(other(x[:, order]), module(x)[:, order])


@pytest.mark.parametrize("size", SIZES)
def test_se_is_monais(size: tuple[int, ...]) -> None:
    blocks = pytest.importorskip("monai.networks.blocks")
    theirs = blocks.ChannelSELayer(len(size), C, r=4).double()
    ours = SqueezeExcitation(C, reduction=4).double()
    ours.mlp.load_state_dict(theirs.fc.state_dict(), strict=True)
    x = features(size)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("se", {}, 580),
        ("se", {"bias": False}, 512),
        ("eca", {}, 3),
        ("gsop", {"inner": 32}, 14_688 - 32),  # without the bias before the normalisation
        ("gsop", {}, 37_504 - 64),
        ("frequency", {}, 512),
        ("pointwise", {}, 577),
        ("gather_excite", {"mode": "mean"}, 0),
        ("gather_excite", {"mode": "conv", "extent": 8}, 2_112),
        ("gather_excite", {"mode": "conv_mlp", "extent": 8}, 2_624 + 68),  # 68 biases
        ("gather_excite", {"grid": 16}, 17_024 + 68),
        ("coordinate", {}, 1_688 - 8),
        ("cbam", {}, 680),
        ("bam", {}, 1_173 - 16),
        ("hard", {}, 65),
        ("sk", {}, 8_768),
        ("sk", {"groups": 1}, 80_192),
        ("branch", {}, 151_460 - 256),
        ("branch", {"mode": "autofocus"}, 56_036 - 64),
        ("odconv", {}, 150_909),
    ],
)
def test_how_many_weights_64_channels_take(name: str, options: dict[str, Any], count: int) -> None:
    module = create_attention(name, 64, **options)
    assert sum(p.numel() for p in module.parameters()) == count


# --- ECA ------------------------------------------------------------------------------------------


def test_eca_kernels_of_the_paper() -> None:
    sizes = {1: 1, 8: 3, 16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5}
    assert {c: eca_kernel(c) for c in sizes} == sizes


@pytest.mark.parametrize("size", SIZES)
def test_eca_is_a_banded_matrix_over_channels(size: tuple[int, ...]) -> None:
    module = EfficientChannel(C, kernel=5)
    randomised(module)
    taps = module.conv.weight.detach().flatten().numpy()
    matrix = np.zeros((C, C))
    for i in range(C):
        for k, tap in enumerate(taps):
            if 0 <= i + k - 2 < C:
                matrix[i, i + k - 2] = tap
    x = features(size)
    z = x.flatten(2).mean(2).numpy()
    s = sigmoid(z @ matrix.T).reshape(2, C, *(1,) * len(size))
    np.testing.assert_allclose(module(x).detach().numpy(), x.numpy() * s, atol=1e-12)
    with pytest.raises(InputError, match="got kernel=4, expected an odd number"):
        EfficientChannel(C, kernel=4)


# --- second-order pooling -------------------------------------------------------------------------


def test_the_covariance_is_torchs() -> None:
    z = torch.randn(2, 6, 35, dtype=torch.float64)
    for item, found in zip(z, covariance(z), strict=True):
        torch.testing.assert_close(found, torch.cov(item, correction=0))
    torch.testing.assert_close(covariance(z + torch.randn(2, 6, 1)), covariance(z))


@pytest.mark.parametrize("mode", ["channel", "position"])
def test_gsop_step_by_step(mode: str) -> None:
    module = SecondOrderPooling(C, inner=6, mode=mode, grid=3)
    randomised(module)
    x = features((7, 11))
    z = torch.relu(module.reduce[1](module.reduce[0](x)))
    if mode == "position":
        z = nn.functional.adaptive_avg_pool2d(z, 3)
    rows = z.flatten(2) if mode == "channel" else z.flatten(2).mT
    weight, bias = module.rows.weight, module.rows.bias
    assert bias is not None
    for item in range(2):
        cov = module.norm(torch.cov(rows[item], correction=0)[None])[0]
        four = [
            [weight[4 * r + j, 0] @ cov[r] + bias[4 * r + j] for j in range(4)]
            for r in range(len(cov))
        ]
        flat = torch.stack([v for row in four for v in row])
        s = torch.sigmoid(module.expand.weight @ flat + module.expand.bias)
        if mode == "channel":
            expected = x[item] * s[:, None, None]
        else:
            up = nn.functional.interpolate(s.view(1, 1, 3, 3), (7, 11), mode="bilinear")
            expected = x[item] * up[0]
        torch.testing.assert_close(module(x)[item], expected)


def test_gsop_shows_its_covariance() -> None:
    module = SecondOrderPooling(C, inner=6)
    randomised(module)
    x = features((7, 11))
    with torch.no_grad(), recording(module) as tape:
        y = module(x)
    found = {r.name: r for r in tape.records}
    assert {n: r.kind for n, r in found.items()} == {"covariance": "matrix", "channels": "channel"}
    assert found["covariance"].values.shape == (2, 6, 6)
    torch.testing.assert_close(found["covariance"].values, found["covariance"].values.mT)
    torch.testing.assert_close(found["channels"].values[..., None, None] * x, y)


# --- frequencies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_patterns_are_orthonormal(ndim: int) -> None:
    side = 4
    grid = torch.cartesian_prod(*[torch.arange(side)] * ndim).tolist()
    patterns = torch.stack([basis(tuple(f), side).flatten() for f in grid])
    torch.testing.assert_close(patterns @ patterns.T, torch.eye(side**ndim), atol=1e-6, rtol=0)


def test_the_lowest_frequency_alone_is_the_mean() -> None:
    module, se = FrequencyChannel(C, frequencies=1), SqueezeExcitation(C, bias=False)
    randomised(module)
    randomised(se)
    with torch.no_grad():
        se.mlp[0].weight.copy_(7 * module.mlp[0].weight)
        se.mlp[2].weight.copy_(module.mlp[2].weight)
    x = features((14, 21))
    torch.testing.assert_close(module.squeeze(x), 7 * x.mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(x), se(x), atol=1e-5, rtol=1e-5)


def test_each_group_of_channels_listens_to_its_own_frequency() -> None:
    module = FrequencyChannel(32, frequencies=16).double()
    u, v = 6, 0  # the third of the paper's list: channels 4 and 5
    wave = [[cos(pi * u * (i + 0.5) / 7) * cos(pi * v * (j + 0.5) / 7) for j in range(7)]
            for i in range(7)]  # fmt: skip
    image = torch.tensor(wave, dtype=torch.float64) * sqrt(2 / 7) * sqrt(1 / 7)
    heard = module.squeeze(image.expand(1, 32, 7, 7))[0]
    expected = torch.zeros(32, dtype=torch.float64)
    expected[4:6] = 1
    torch.testing.assert_close(heard, expected, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="got frequencies=17, expected 1 to 16"):
        FrequencyChannel(32, frequencies=17)
