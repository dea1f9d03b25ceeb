"""Inverted residual blocks and the MobileNetV2 encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.models.encoders import load_encoder_weights
from napari_attnseg.models.inverted_residual import InvertedResidual, MobileNetV2


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(4)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
    return module.double().eval()


@pytest.mark.parametrize(
    ("inside", "outside", "stride", "residual"),
    [(5, 5, 1, True), (5, 7, 1, False), (5, 5, 2, False), (5, 7, 2, False)],
)
@pytest.mark.parametrize("expansion", [1, 6])
def test_the_input_is_added_where_shapes_agree(
    inside: int, outside: int, stride: int, residual: bool, expansion: int
) -> None:
    block = randomised(InvertedResidual(inside, outside, stride, expansion))
    nn.init.zeros_(block.conv[-1].weight)
    nn.init.zeros_(block.conv[-1].bias)
    x = torch.randn(2, inside, 8, 12, dtype=torch.float64)
    expected = x if residual else torch.zeros(2, outside, 8 // stride, 12 // stride)
    assert torch.equal(block(x), expected.double())


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_step_by_step(stride: int) -> None:
    block = randomised(InvertedResidual(3, 3, stride, 4)).requires_grad_(False)
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64)

    def normed(y: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        mean, var, weight, bias = (
            t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        )
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    expand, depthwise, project, last = block.conv
    y = torch.einsum("oi,bihw->bohw", expand[0].weight[..., 0, 0], x)
    y = normed(y, expand[1]).clamp(0, 6)
    y = F.conv2d(y, depthwise[0].weight, stride=stride, padding=1, groups=12)
    y = normed(y, depthwise[1]).clamp(0, 6)
    y = normed(torch.einsum("oi,bihw->bohw", project.weight[..., 0, 0], y), last)
    torch.testing.assert_close(block(x), x + y if stride == 1 else y)


def test_depthwise_then_pointwise_is_a_convolution_of_rank_one() -> None:
    block = InvertedResidual(3, 5, 1, 1).double()
    depthwise, pointwise = block.conv[0][0], block.conv[1]
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    dense = torch.einsum("kmn,lk->lkmn", depthwise.weight[:, 0], pointwise.weight[..., 0, 0])
    torch.testing.assert_close(pointwise(depthwise(x)), F.conv2d(x, dense, padding=1))


def test_a_transposed_block_doubles() -> None:
    block = InvertedResidual(4, 4, 2, transposed=True)
    assert not block.residual
    assert block(torch.randn(1, 4, 7, 11)).shape == (1, 4, 14, 22)
    kinds = [type(m) for m in block.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert kinds == [nn.ConvTranspose2d]
    for stride, transposed in ((3, False), (1, True)):
        with pytest.raises(InputError, match=f"got stride={stride}, expected 1 or 2"):
            InvertedResidual(4, 4, stride, transposed=transposed)


# --- the encoder ----------------------------------------------------------------------------------


def test_names_and_shapes_of_the_published_network() -> None:
    encoder = MobileNetV2()
    state = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert len(state) == 52 * 6  # convolutions, each with five tensors of its normalisation
    assert sum(p.numel() for p in encoder.parameters()) == 3_504_872 - 1280 * 1000 - 1000
    expected = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_var": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.bias": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.1.1.running_mean": (96,),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.weight": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.num_batches_tracked": (),
    }
    assert expected.items() <= state.items()


@pytest.mark.parametrize("last", [1280, 1028, 0])
def test_features_and_their_grids(last: int) -> None:
    encoder = MobileNetV2(2, last=last).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 2, 64, 96))
    assert [f.shape[1] for f in features] == list(encoder.channels)
    assert encoder.channels == (16, 24, 32, 96, last or 320)
    assert [tuple(f.shape[2:]) for f in features] == [(64 // s, 96 // s) for s in encoder.strides]


def test_width_scales_all() -> None:
    assert MobileNetV2(1, 0.25, 0).channels == (4, 6, 8, 24, 80)
    with pytest.raises(InputError, match="got width=0"):
        MobileNetV2(1, 0.0)


@pytest.mark.parametrize("last", [1280, 1028, 0])
def test_published_weights_load_whatever_the_last_layer(tmp_path: Path, last: int) -> None:
    source = randomised(MobileNetV2()).float()
    path = tmp_path / "mobilenet_v2.safetensors"
    state = {**source.state_dict(), "classifier.1.weight": torch.zeros(1000, 1280)}
    save_file(state, path)
    encoder = MobileNetV2(1, last=last)
    report = load_encoder_weights(encoder, path)
    assert len(report.loaded) == (312 if last == 1280 else 306)
    assert all(name.startswith("last.") for name in report.missing)
    assert "adapted from 3 to 1" in report.adapted
    encoder.eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        ours, theirs = encoder(x), source(x.expand(-1, 3, -1, -1))
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_weights_under_the_other_names(tmp_path: Path) -> None:
    """timm's: the same tensors, block after block, each under the name of its layer."""
    source = randomised(MobileNetV2()).float()
    ours = iter(source.state_dict().items())
    state: dict[str, torch.Tensor] = {}

    def take(conv: str, norm: str) -> None:
        state[f"{conv}.weight"] = next(ours)[1]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{norm}.{part}"] = next(ours)[1]

    take("conv_stem", "bn1")
    take("blocks.0.0.conv_dw", "blocks.0.0.bn1")
    take("blocks.0.0.conv_pw", "blocks.0.0.bn2")
    for stage, count in enumerate((2, 3, 4, 3, 3, 1), 1):
        for i in range(count):
            for conv, norm in (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")):
                take(f"blocks.{stage}.{i}.{conv}", f"blocks.{stage}.{i}.{norm}")
    take("conv_head", "bn2")
    assert next(ours, None) is None
    path = tmp_path / "model.safetensors"
    save_file({**state, "classifier.weight": torch.zeros(1000, 1280)}, path)
    encoder = MobileNetV2()
    report = load_encoder_weights(encoder, path)
    assert (len(report.loaded), report.ignored, report.missing) == (312, ("classifier.weight",), ())
    for name, value in source.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
