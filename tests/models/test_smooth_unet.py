"""smooth_unet: size, cost, cells, and that forward is the chain the session runs."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import Tensor, nn

from napari_attnseg import create_model, list_models
from napari_attnseg.errors import InputError
from napari_attnseg.models import ModelSpec, SegmentationModel, build
from napari_attnseg.models import base as models_base
from napari_attnseg.models.base import model_options, pad_to_multiple
from napari_attnseg.settings import RULES, Tuning


def small(classes: int = 1, stride: int = 8, **kw) -> SegmentationModel:
    """Random weights, running statistics included, in evaluation mode; attention at work."""
    torch.manual_seed(2)
    model = create_model(
        "smooth_unet", in_channels=2, classes=classes, width=0.125, stride=stride, **kw
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for conv in (model.attention.query, model.attention.key):
            conv.weight.mul_(4)
        model.attention.gamma.fill_(0.8)
    return model.eval()


def macs(model: SegmentationModel, size: int) -> int:
    """Multiply-accumulates of convolutions and the two attention products, by hooks."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        weights = module.weight.numel()
        if isinstance(module, nn.ConvTranspose2d):
            total += weights * inputs[0].shape[-1] * inputs[0].shape[-2]
        else:
            total += weights * out.shape[-1] * out.shape[-2]

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, model.spec.in_channels, size, size))
    n = (size // model.stride) ** 2
    value, key = model.attention.value.out_channels, model.attention.query.out_channels
    return total + n * n * (value + key)


# --- the paper's network --------------------------------------------------------------------------


def test_parameters_and_cost_of_the_full_model() -> None:
    model = create_model("smooth_unet", in_channels=3).eval()
    assert sum(p.numel() for p in model.parameters()) == 12_661_410
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    assert parts == {"encoder": 11_176_512, "attention": 787_969, "decoder": 696_929}
    assert macs(model, 224) / 1e9 == pytest.approx(1.964, abs=0.006)
    light = create_model("smooth_unet", in_channels=3, key_channels=64)
    assert sum(p.numel() for p in light.parameters()) == 12_201_762


def test_published_parameter_names() -> None:
    names = set(create_model("smooth_unet", in_channels=3).encoder.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.bn2.bias",
        "layer2.0.downsample.0.weight",
        "layer4.0.downsample.1.running_var",
        "layer4.1.conv2.weight",
    } <= names
    assert len(names) == 120  # the 122 of a published ResNet-18 less fc.weight and fc.bias
    assert "layer1.0.downsample.0.weight" not in names


def test_the_decoder_has_relu_between_layers_and_none_at_the_end() -> None:
    layers = list(create_model("smooth_unet", in_channels=3, classes=4).decoder.layers)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["ConvTranspose2d", "ReLU"] * 4 + ["ConvTranspose2d"]
    ups = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(u.in_channels, u.out_channels) for u in ups] == [
        (512, 256),
        (256, 128),
        (128, 64),
        (64, 32),
        (32, 4),
    ]
    assert all(u.kernel_size == u.stride == (2, 2) for u in ups)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (37, 51), (7, 130), (1, 1)])
@pytest.mark.parametrize("classes", [1, 4])
def test_logits_have_the_inputs_size(stride: int, size: tuple[int, int], classes: int) -> None:
    model = small(classes, stride)
    with torch.no_grad():
        out = model(torch.rand(2, 2, *size))
    assert out.shape == (2, classes, *size)
    assert out.isfinite().all()
    assert (model.stride, model.cell) == (stride, stride)


def test_padding_repeats_the_border_below_and_right() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = pad_to_multiple(x, 4)
    assert padded.tolist() == [[[[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]]]
    assert pad_to_multiple(padded, 4) is padded


def test_the_image_itself_is_not_changed_by_padding() -> None:
    model = small()
    x = torch.rand(1, 2, 19, 26)
    with torch.no_grad():
        whole = model(pad_to_multiple(x, 8))
        assert torch.equal(model(x), whole[..., :19, :26])


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_one_feature_position_decides_exactly_one_cell(stride: int) -> None:
    model = small(classes=3, stride=stride)
    encoded = model.encode(torch.rand(1, 2, 4 * stride, 5 * stride))
    features = encoded.features.detach()
    moved = features.clone()
    moved[0, :, 2, 3] += 1.0
    with torch.no_grad():
        gap = (model.decode(moved, encoded.size) - model.decode(features, encoded.size))[0]
    changed = gap.abs().amax(0) > 0
    cell = model.cell
    assert cell == stride
    assert changed[2 * cell : 3 * cell, 3 * cell : 4 * cell].float().mean() > 0.9
    changed[2 * cell : 3 * cell, 3 * cell : 4 * cell] = False
    assert not changed.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("classes", [1, 3])
def test_selecting_cells_of_two_variants_is_the_full_pass_bit_by_bit(
    rule: str, classes: int
) -> None:
    model = small(classes)
    x = torch.rand(1, 2, 85, 61)
    with torch.no_grad():
        encoded = model.encode(x)
        attended = model.attend(encoded)

        def decode(threshold: float) -> Tensor:
            features = model.gate(encoded, attended, threshold=threshold, rule=rule)
            return model.decode(features, encoded.size)

        none, every = decode(2.0), decode(-1.0)
        for quantile in (0.0, 0.3, 0.7, 1.0):
            t = float(attended.step.quantile(quantile))
            mask = (attended.step > t).repeat_interleave(model.cell, 1)
            mask = mask.repeat_interleave(model.cell, 2)[:, None, :85, :61]
            selected = torch.where(mask, every, none)
            assert torch.equal(selected, decode(t))
            assert torch.equal(selected, model(x, threshold=t, rule=rule))


# --- the chain ------------------------------------------------------------------------------------


def test_forward_is_the_chain() -> None:
    model = small(classes=2)
    x = torch.rand(1, 2, 33, 40)
    with torch.no_grad():
        encoded = model.encode(x)
        features = model.gate(encoded, model.attend(encoded), threshold=0.01, gamma=0.5)
        expected = model.decode(features, encoded.size)
        assert torch.equal(model(x, threshold=0.01, gamma=0.5), expected)
        assert not torch.equal(model(x), expected)
    assert encoded.size == (33, 40)
    assert encoded.features.shape[-2:] == (5, 5)


@pytest.mark.parametrize("rule", RULES)
def test_the_threshold_moves_the_answer(rule: str) -> None:
    model = small(rule=rule)
    x = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        step = model.attend(model.encode(x)).step
        assert not torch.equal(model(x, threshold=float(step.median())), model(x, threshold=2.0))


def test_training_reaches_every_part() -> None:
    model = small(rule="authors", threshold=0.01).train()
    model(torch.rand(2, 2, 48, 64)).square().mean().backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert silent <= {"attention.key.bias"}


def test_tuning_and_adopt() -> None:
    model = small(rule="authors", threshold=0.15)
    assert model.tuning() == Tuning.of(threshold=0.15, rule="authors", gamma=pytest.approx(0.8))
    model.adopt(Tuning.of(threshold=0.4, rule="suppress"))
    assert model.tuning().get("threshold") == 0.4
    assert model.attention.rule == "suppress"
    assert {t.name for t in model.tunables} == set(model.gate_values)


# --- specs and names ------------------------------------------------------------------------------


def test_specs_round_trip_and_hold_every_option() -> None:
    model = create_model("smooth_unet", in_channels=1, classes=4, width=0.125, stride=16)
    data = model.spec.to_json()
    assert data["options"] == {**model_options("smooth_unet"), "width": 0.125, "stride": 16}
    again = build(ModelSpec.from_json(data))
    assert again.spec == model.spec
    shapes = {n: p.shape for n, p in model.state_dict().items()}
    assert {n: p.shape for n, p in again.state_dict().items()} == shapes


def test_models_are_listed_by_name() -> None:
    assert "smooth_unet" in list_models()


@pytest.mark.parametrize(
    ("name", "kw", "words"),
    [
        ("smoth_unet", {}, r"got model 'smoth_unet', expected one of .*smooth_unet"),
        ("smooth_unet", {"depth": 3}, "got option depth for smooth_unet, expected some of width"),
        ("smooth_unet", {"stride": 4}, "got stride=4, expected one of 8, 16, 32"),
        ("smooth_unet", {"width": 0}, "got width=0, expected a number above 0"),
        ("smooth_unet", {"rule": "x"}, "got rule='x'"),
        ("smooth_unet", {"classes": 0}, "got in_channels=1 and classes=0"),
    ],
)
def test_bad_wishes_are_refused(name: str, kw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        create_model(name, **{"in_channels": 1, **kw})


def test_other_packages_join_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("outside", f"{__name__}:small", models_base.GROUP)
    monkeypatch.setattr(models_base, "entry_points", lambda **kw: EntryPoints([entry]).select(**kw))
    monkeypatch.setattr(models_base, "_REGISTRY", dict(models_base._REGISTRY))
    assert {"outside", "smooth_unet"} <= set(list_models())
    assert models_base.model_builder("outside").__name__ == "small"


def test_a_model_name_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_base, "_REGISTRY", dict(models_base._REGISTRY))

    def smooth_unet(in_channels: int, classes: int) -> SegmentationModel:
        raise AssertionError

    with pytest.raises(ValueError, match="second model called 'smooth_unet'"):
        models_base.register_model()(smooth_unet)
