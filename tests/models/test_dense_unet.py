"""dense_unet: the published plans and costs, a second library's DenseNet, and its attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg import create_model, load_checkpoint, save_checkpoint
from napari_attnseg.attention.dot_product import NonLocal
from napari_attnseg.attention.recording import recording
from napari_attnseg.cards import Card
from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.models import SegmentationModel
from napari_attnseg.models.base import pad_to_multiple
from napari_attnseg.models.densenet import PLANS, densenet
from napari_attnseg.models.macs import count_macs
from napari_attnseg.models.pretrained import load_encoder_weights
from napari_attnseg.settings import Tuning


def small(in_channels: int = 1, classes: int = 1, **kw) -> SegmentationModel:
    """The narrow plan with everything random: running statistics, W_z and biases too."""
    torch.manual_seed(3)
    options = {"plan": "narrow", "attention": "ja", **kw}
    model = create_model("dense_unet", in_channels=in_channels, classes=classes, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, NonLocal):
                nn.init.normal_(module.w_z.weight, std=0.3)
                nn.init.normal_(module.w_z.bias, std=0.3)
    return model.eval()


def shape_only(**kw) -> SegmentationModel:
    with torch.device("meta"):
        return create_model("dense_unet", in_channels=3, **{"classes": 2, **kw}).eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- the published networks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "channels", "encoder", "total", "added"),
    [
        ("161", (96, 384, 768, 2112, 2208), 26_472_000, 49_527_778, 10_452_724),
        ("121", (64, 256, 512, 1024, 1024), 6_953_856, 14_125_890, 2_782_052),
    ],
)
def test_parameters_of_the_published_plans(
    plan: str, channels: tuple[int, ...], encoder: int, total: int, added: int
) -> None:
    """Encoders: the published DenseNets (28,681,000 and 7,978,856) less their classifiers."""
    bare = shape_only(plan=plan, attention="none")
    assert bare.encoder.channels == channels
    assert parameters(bare.encoder) == encoder
    assert parameters(bare) == total
    assert parameters(shape_only(plan=plan, attention="ja")) - total == added
    by_hand = 0
    for c in channels[:4]:
        by_hand += 4 * c * (c // 2) + 3 * (c // 2) + c + 9 * c + 1
    assert added == by_hand


def normalised(model: nn.Module, size: int) -> int:
    """Values that batch normalisation writes in one forward of a size x size image."""
    total = 0

    def count(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += out.numel()

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize(
    ("plan", "published", "linear", "quadratic"),
    [("161", 24.357, 30.649, 62.554), ("121", 10.073, 12.280, 33.922)],
)
def test_cost_at_256(plan: str, published: float, linear: float, quadratic: float) -> None:
    """Published GMACs count two per value that batch normalisation writes; ours do not."""
    bare, joint = (shape_only(plan=plan, attention=kind) for kind in ("none", "ja"))
    cost = count_macs(bare, (256, 256)) / 1e9
    chosen = count_macs(joint, (256, 256)) / 1e9
    assert cost == pytest.approx(published, rel=0.006)
    assert cost + 2 * normalised(bare, 256) / 1e9 == pytest.approx(published, rel=5e-4)
    for order, expected in (("linear", linear), ("quadratic", quadratic)):
        for module in joint.modules():
            if isinstance(module, NonLocal):
                module.order = order
        ordered = count_macs(joint, (256, 256)) / 1e9
        assert ordered - cost == pytest.approx(expected - published, abs=2e-3)
        assert chosen < ordered  # 16 x 16 positions at the deepest skip, more channels than that


def test_the_narrow_plan_is_small() -> None:
    model = create_model("dense_unet", in_channels=1, plan="narrow")
    assert 4 * parameters(model) <= 2 * 2**20
    assert model.encoder.channels == (24, 72, 84, 114, 105)


# --- the encoder ----------------------------------------------------------------------------------


def second_library():
    """MONAI's DenseNet-121 with all numbers random, its names turned into the published ones."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(1)
    net = nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=10).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
    state = {name.replace(".layers.", "."): v for name, v in net.state_dict().items()}
    return net, {n.replace("class_layers.out", "classifier"): v for n, v in state.items()}


@pytest.fixture(scope="module")
def second() -> tuple[nn.Module, dict[str, Tensor]]:
    return second_library()


def test_features_equal_a_second_librarys(
    second: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    net, state = second
    torch.save(state, tmp_path / "densenet121.pth")
    encoder = densenet("121").eval()
    report = load_encoder_weights(encoder, tmp_path / "densenet121.pth")
    assert report.ignored == ("classifier.bias", "classifier.weight")
    assert not report.missing
    seen: dict[str, Tensor] = {}
    for name in ("relu0", "denseblock1", "denseblock2", "denseblock3", "norm5"):
        part = net.features.get_submodule(name)
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.clone()}))
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        net.features(x)
        taps = encoder(x)
    for tap, expected, stride in zip(taps, seen.values(), encoder.strides, strict=True):
        assert tap.shape[-2:] == (96 // stride, 64 // stride)
        wanted = expected.clamp(min=0) if stride == 32 else expected
        torch.testing.assert_close(tap, wanted, atol=1e-4, rtol=1e-4)


def test_files_of_the_first_releases_load(
    second: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    """Published files name the parts of a dense layer ``norm.1`` and ``conv.2``."""
    old = {}
    for name, value in second[1].items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if ".denselayer" in name:
                name = name.replace(f".{part}.", f".{part[:4]}.{part[4]}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    new, grey = densenet("121"), densenet("121", 1)
    assert not load_encoder_weights(new, tmp_path / "old.pth").missing
    for name, value in new.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, second[1][name]), name
    report = load_encoder_weights(grey, tmp_path / "old.pth")
    assert report.adapted == "first convolution adapted from 3 to 1 input channels"


def test_weights_of_another_plan_are_refused(tmp_path: Path) -> None:
    torch.save(densenet("121").state_dict(), tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match=r"nobody publishes any .DenseNet-narrow."):
        load_encoder_weights(densenet("narrow"), tmp_path / "d.pth")
    with torch.device("meta"):
        large = densenet("161")
    with pytest.raises(CheckpointError, match=r"published weights need .* DenseNet-161"):
        load_encoder_weights(large, tmp_path / "d.pth")


def test_channels_follow_from_the_plan() -> None:
    for name, plan in PLANS.items():
        with torch.device("meta"):
            features = densenet(name)(torch.empty(1, 3, 64, 64))
        assert tuple(f.shape[1] for f in features) == plan.channels


# --- the decoder ----------------------------------------------------------------------------------


def test_skips_are_added_before_each_convolution() -> None:
    """The decoder line by line: doubling, sum, convolution, BN, ReLU; and the head."""
    model = small(classes=3, attention="none").double()
    x = torch.rand(2, 1, 64, 96, dtype=torch.float64)

    def bn(y: Tensor, m: nn.BatchNorm2d) -> Tensor:
        mean, var, a, b = (
            t.view(1, -1, 1, 1) for t in (m.running_mean, m.running_var, m.weight, m.bias)
        )
        return (y - mean) / (var + m.eps).sqrt() * a + b

    def twice(y: Tensor) -> Tensor:
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2)

    with torch.no_grad():
        t1, t2, t3, t4, y = model.encoder(x)
        t4 = F.conv2d(t4, model.line.weight, model.line.bias)
        for up, tap in zip(model.ups, (t4, t3, t2, t1), strict=True):
            y = F.conv2d(twice(y) + tap, up.conv.weight, up.conv.bias, padding=1)
            y = bn(y, up.norm).clamp(min=0)
        conv, dropout, norm, _, last = model.head
        y = bn(F.conv2d(twice(y), conv.weight, conv.bias, padding=1), norm).clamp(min=0)
        y = F.conv2d(y, last.weight, last.bias)
        torch.testing.assert_close(model(x), y)
    assert dropout.p == 0.3
    widths = [up.conv.out_channels for up in shape_only(plan="161").ups]
    assert widths == [768, 384, 96, 96]


@pytest.mark.parametrize("size", [(64, 96), (37, 51), (1, 1)])
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 1), (4, 5)])
def test_logits_have_the_inputs_size(size: tuple[int, int], in_channels: int, classes: int) -> None:
    model = small(in_channels, classes)
    x = torch.rand(2, in_channels, *size)
    with torch.no_grad():
        out = model(x)
        whole = model(pad_to_multiple(x, 32))
    assert out.shape == (2, classes, *size)
    assert torch.equal(out, whole[..., : size[0], : size[1]])
    assert out.isfinite().all()


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sa", "pwa", "ja"])
def test_without_strength_it_is_the_plain_network(attention: str) -> None:
    model, plain = small(attention=attention), small(attention="none")
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("attention.")}
    )
    x = torch.rand(1, 1, 50, 70)
    off = {f"level_{i}": 0.0 for i in range(1, 5)}
    with torch.no_grad():
        assert torch.equal(model(x, **off), plain(x))
        trained = model(x)
        assert torch.equal(model(x, level_2=1.0), trained)
        for level in off:
            assert (model(x, **{level: 0.0}) - trained).abs().max() > 1e-5, level
    assert {t.name for t in model.tunables} == set(off) == set(model.gate_values)
    assert model.tuning() == Tuning.of(**dict.fromkeys(off, 1.0))
    assert plain.tunables == plain.places == ()


def test_forward_is_the_chain() -> None:
    model, x = small(classes=2), torch.rand(1, 1, 33, 65)
    with torch.no_grad():
        encoded = model.encode(x)
        assert model.attend(encoded) is None
        features = model.gate(encoded, None, level_1=0.4)
        assert torch.equal(model.decode(features, encoded.size), model(x, level_1=0.4))
    assert encoded.size == (33, 65)
    assert [s.shape[-1] for s in (*encoded.skips, encoded.features)] == [48, 24, 12, 6, 3]
    assert features.shape[-2:] == (32, 48)


def test_a_model_adopts_the_levels_of_its_card() -> None:
    model, x = small(), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        half = model(x, level_3=0.5)
        model.adopt(Tuning.of(level_3=0.5))
        assert torch.equal(model(x), half)
    assert model.tuning().get("level_3") == 0.5


def test_maps_of_every_place() -> None:
    model, x = small(), torch.rand(1, 1, 64, 64)
    with torch.no_grad(), recording(model, query=(0.5, 0.25)) as tape:
        model(x)
    places = {p.module: p.stride for p in model.places}
    assert list(places.values()) == [2, 4, 8, 16]
    assert model.places[0].title == "skip 1, 1/2 resolution"
    assert {(r.place, r.name) for r in tape.records} == {
        (place, name) for place in places for name in ("pointwise", "received", "row")
    }
    for record in tape.records:
        side = 64 // places[record.place]
        assert record.values.shape == (1, side, side)


def test_attention_stands_only_at_the_levels_asked_for() -> None:
    model = small(levels="24")
    assert [p.module for p in model.places] == ["attention.level_2", "attention.level_4"]
    assert [t.name for t in model.tunables] == ["level_2", "level_4"]
    with torch.no_grad():
        assert model(torch.rand(1, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize("structure", range(1, 10))
def test_every_structure_trains(structure: int) -> None:
    """One step of every part, attention included; the checkpoint brings the same structure back."""
    model = small(structure=structure, parallel_merge="sum" if structure == 2 else "gate").train()
    out = model(torch.rand(2, 1, 48, 64))
    (out * torch.randn_like(out)).sum().backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert not {n for n in silent if not n.endswith("conv.bias")}, silent


def test_round_trip_through_a_checkpoint(tmp_path: Path) -> None:
    model = small(2, 3, structure=3, parallel_merge="sum", sigma="none", levels="123")
    save_checkpoint(tmp_path / "m.safetensors", model, Card())
    again = load_checkpoint(tmp_path / "m.safetensors").model
    x = torch.rand(1, 2, 41, 29)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert again.spec == model.spec
    assert again.attention["level_1"].parallel_merge == "sum"


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"plan": "169"}, "got plan='169', expected one of 161, 121, narrow"),
        ({"attention": "cbam"}, "got attention='cbam', expected one of none, sa, pwa, ja"),
        ({"structure": 12}, "got structure=12"),
        ({"levels": "15"}, "got levels '15', expected some of the digits 1234"),
        ({"levels": ""}, "got levels '', expected some of the digits 1234"),
        ({"dropout": 1.0}, "got dropout=1.0"),
    ],
)
def test_bad_wishes_are_refused(kw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**kw)


def test_numbers_are_understood_where_words_are_meant() -> None:
    """``--option plan=161`` reads as a number."""
    assert parameters(shape_only(plan=161, attention="none")) == 49_527_778
    assert [p.stride for p in small(levels=12).places] == [2, 4]
