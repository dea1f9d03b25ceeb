"""The baselines against published sizes and costs, formulas by hand, and MONAI's parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.additive_gate import AdditiveGate
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import SegmentationModel, create_model
from napari_attnseg.models.blocks import PooledNorm
from napari_attnseg.models.deeplabv3plus import Pyramid
from napari_attnseg.models.fcn8s import Doubling
from napari_attnseg.models.hrnet import Exchange
from napari_attnseg.models.macs import count_macs
from napari_attnseg.models.resnet import Bottleneck, ResNet18, ResNet34, ResNet50
from napari_attnseg.models.resunet import ResidualUnit
from napari_attnseg.models.unet import plain_decoder
from napari_attnseg.models.vgg import VGG16


def shape_only(name: str, classes: int = 1, **options: object) -> SegmentationModel:
    with torch.device("meta"):
        return create_model(name, in_channels=3, classes=classes, **options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def stir(module: nn.Module) -> nn.Module:
    """Weights and running statistics in general position, float64, evaluation mode."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return module.double().eval()


# --- sizes and costs of independent implementations (measured by another counter) -----------------


@pytest.mark.parametrize(
    ("name", "options", "millions", "gmacs"),
    [
        ("unet", {}, 31.04, 12.06),
        ("unet_resnet50", {}, 32.5, 2.67),
        ("deeplabv3plus", {}, 26.7, 2.30),
        ("fcn8s", {}, 134.3, 6.92),
        ("attention_unet", {}, 34.88, 16.63),
        ("resunet", {"up": "transposed", "shortcut": 3}, 13.0, 17.80),
    ],
)
def test_parameters_and_cost_at_128(
    name: str, options: dict[str, object], millions: float, gmacs: float
) -> None:
    model = shape_only(name, **options)
    assert parameters(model) / 1e6 == pytest.approx(millions, rel=0.005)
    assert count_macs(model, (128, 128)) / 1e9 == pytest.approx(gmacs, rel=0.025)


def test_unet_to_the_parameter() -> None:
    assert parameters(shape_only("unet")) == 31_037_633
    assert parameters(shape_only("unet", classes=2)) == 31_037_698
    assert parameters(shape_only("unet_resnet50")) == 32_521_105
    assert parameters(shape_only("unet", encoder="resnet50")) == 32_521_105


def test_hrnet_as_published_for_cityscapes() -> None:
    """TPAMI paper, Cityscapes table: W48 65.9 M, 696.2 GFLOPs (2^30 MACs) at 1024 x 2048."""
    model = shape_only("hrnet", 19, plan="w48")
    assert parameters(model) / 1e6 == pytest.approx(65.9, abs=0.05)
    assert count_macs(model, (1024, 2048)) / 2**30 == pytest.approx(696.2, abs=0.05)


def test_resunet_as_published() -> None:
    """7.8 M parameters, in which the paper has none for shortcuts."""
    model = shape_only("resunet")
    shortcuts = sum(p.numel() for n, p in model.named_parameters() if "shortcut" in n)
    assert (parameters(model) - shortcuts) / 1e6 == pytest.approx(7.8, abs=0.05)


@pytest.mark.parametrize(
    ("encoder", "own"), [(ResNet18, 11_176_512), (ResNet34, 21_284_672), (ResNet50, 23_508_032)]
)
def test_resnets_without_their_classifier(encoder: type[nn.Module], own: int) -> None:
    """Published 11,689,512, 21,797,672 and 25,557,032 less 1000 x (512 or 2048) + 1000."""
    with torch.device("meta"):
        assert parameters(encoder()) == own


def test_vgg16_with_two_of_its_three_dense_layers() -> None:
    with torch.device("meta"):
        assert parameters(VGG16()) == 138_357_544 - 4_097_000


@pytest.mark.parametrize("name", ["unet", "attention_unet", "resunet", "fcn8s", "hrnet"])
def test_width_scales_parameters_by_its_square(name: str) -> None:
    ratio = parameters(shape_only(name, width=0.5)) / parameters(shape_only(name))
    assert ratio == pytest.approx(0.25, rel=0.02)


# --- parts by their formulas ----------------------------------------------------------------------


def bn(y: Tensor, m: nn.Module) -> Tensor:
    mean, var, a, b = (
        t.view(1, -1, 1, 1) for t in (m.running_mean, m.running_var, m.weight, m.bias)
    )
    return (y - mean) / (var + m.eps).sqrt() * a + b


def test_a_bottleneck_by_its_formula() -> None:
    block = stir(Bottleneck(5, 3, 2))
    x = torch.randn(2, 5, 7, 11, dtype=torch.float64)
    y = bn(F.conv2d(x, block.conv1.weight), block.bn1).clamp(min=0)
    y = bn(F.conv2d(y, block.conv2.weight, None, 2, 1), block.bn2).clamp(min=0)
    y = bn(F.conv2d(y, block.conv3.weight), block.bn3)
    conv, norm = block.downsample
    expected = (y + bn(F.conv2d(x, conv.weight, None, 2), norm)).clamp(min=0)
    torch.testing.assert_close(block(x.clone()), expected)


@pytest.mark.parametrize("kind", [ResNet18, ResNet50])
def test_holed_stages_mean_the_same_on_a_finer_grid(kind: type) -> None:
    """Every second position of the dilated network is the network with its stride."""
    torch.manual_seed(0)
    plain, holed = kind(3, 0.125).double().eval(), kind(3, 0.125, dilated=True).double().eval()
    holed.load_state_dict(plain.state_dict())
    assert (plain.strides[-1], holed.strides[-1]) == (32, 16)
    with torch.no_grad():
        x = torch.randn(1, 3, 96, 160, dtype=torch.float64)
        coarse, fine = plain(x)[-1], holed(x)[-1]
    assert fine.shape[-2:] == (6, 10)
    torch.testing.assert_close(fine[..., ::2, ::2], coarse)


def test_a_residual_unit_by_its_formula() -> None:
    unit = stir(ResidualUnit(4, 6, 2))
    x = torch.randn(1, 4, 8, 10, dtype=torch.float64)
    n1, _, c1, n2, _, c2 = unit.body
    y = F.conv2d(bn(x, n1).clamp(min=0), c1.weight, None, 2, 1)
    y = F.conv2d(bn(y, n2).clamp(min=0), c2.weight, c2.bias, 1, 1)
    torch.testing.assert_close(unit(x), y + F.conv2d(x, unit.shortcut.weight, None, 2))


def test_doubling_starts_as_bilinear_interpolation() -> None:
    x = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        got = Doubling(3)(x)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_branches_of_hrnet_are_summed() -> None:
    """With the paths by hand: identity, 1x1 and nearest grid up, strided 3x3 down."""
    block = stir(Exchange((3, 6, 12)))
    xs = [
        torch.randn(1, c, 16 // s, 8 // s, dtype=torch.float64)
        for c, s in [(3, 1), (6, 2), (12, 4)]
    ]
    with torch.no_grad():
        got = block(list(xs))
        a, b, c = (branch(x) for branch, x in zip(block.branches, xs, strict=True))

        def up(path: nn.Module, x: Tensor, factor: int) -> Tensor:
            y = bn(F.conv2d(x, path[0].weight), path[1])
            return F.interpolate(y, scale_factor=factor, mode="bilinear", align_corners=False)

        paths = block.paths
        expected = a + up(paths[0][1], b, 2) + up(paths[0][2], c, 4)
        torch.testing.assert_close(got[0], expected.clamp(min=0))
        halve, last = paths[2][0]
        y = bn(F.conv2d(a, halve[0].weight, None, 2, 1), halve[1]).clamp(min=0)
        y = bn(F.conv2d(y, last[0].weight, None, 2, 1), last[1])
        y = y + bn(F.conv2d(b, paths[2][1][0][0].weight, None, 2, 1), paths[2][1][0][1]) + c
        torch.testing.assert_close(got[2], y.clamp(min=0))


def test_the_pyramid_sees_at_its_rates_and_the_whole_image() -> None:
    """An impulse reaches the nine positions of each rate; a far pixel moves the mean's branch."""
    pyramid = stir(Pyramid(1, 2, (2, 3)))
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    x[..., 5, 5] = 1.0
    with torch.no_grad():
        for branch, rate in zip(pyramid.branches[1:], (2, 3), strict=True):
            taps = (5 - rate, 5, 5 + rate)
            reached = branch[0](x)[0, 0].nonzero().tolist()
            assert reached == [[i, j] for i in taps for j in taps]
        pooled = pyramid.mean[1].weight.flatten(1) @ x.mean((2, 3)).mT
        norm = pyramid.mean[2]
        torch.testing.assert_close(pyramid.mean(x), bn(pooled.view(1, 2, 1, 1), norm).clamp(min=0))
        parts = [branch(x) for branch in pyramid.branches] + [pyramid.mean(x).expand(1, 2, 11, 11)]
        torch.testing.assert_close(pyramid(x), pyramid.project(torch.cat(parts, 1)))


def test_a_pooled_map_of_one_image_is_normalised_by_running_statistics() -> None:
    norm = PooledNorm(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([0.0, 1.0, 2.0]), atol=1e-4, rtol=0)
    assert norm.num_batches_tracked == 0
    two = torch.cat([x, x + 2])
    torch.testing.assert_close(norm(two), F.batch_norm(two, None, None, training=True))


# --- against MONAI's parts ------------------------------------------------------------------------


def test_a_step_of_the_decoder_is_monais() -> None:
    """``UpCat`` of MONAI's BasicUNet (2x2 up-convolution, cat(skip, up), two convolutions)."""
    from monai.networks.nets.basic_unet import UpCat

    own = stir(plain_decoder((3, 6)))
    theirs = UpCat(2, 6, 3, 3, "relu", "batch", True, upsample="deconv").double().eval()
    assert len(theirs.state_dict()) == len(own.state_dict()) + 2
    weights = dict(zip(_order(theirs), _order(own), strict=False))
    state = own.state_dict()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            value.copy_(state[weights[name]] if name in weights else torch.zeros_like(value))
        below, skip = torch.randn(1, 6, 4, 5).double(), torch.randn(1, 3, 8, 10).double()
        torch.testing.assert_close(own(below, (skip,)), theirs(below, skip))


def _order(module: nn.Module) -> list[str]:
    """Names in order of use, without biases before a normalisation."""
    names = list(module.state_dict())
    return [n for n in names if not n.endswith(".conv.bias")]


def test_a_normalised_gate_is_monais() -> None:
    from monai.networks.nets.attentionunet import AttentionBlock

    own, theirs = stir(AdditiveGate(6, 5, 4, norm=True)), AttentionBlock(2, f_int=4, f_g=5, f_l=6)
    pairs = [(theirs.W_g, own.context), (theirs.W_x, own.skip), (theirs.psi, own.psi)]
    for (conv, norm, *_), part in pairs:
        conv.conv.weight.data, conv.conv.bias.data = part[0].weight.data, torch.zeros(1).double()
        conv.conv.bias.data = torch.zeros(part[0].out_channels).double()
        norm.load_state_dict(part[1].state_dict())
    theirs = theirs.double().eval()
    skip, context = torch.randn(2, 6, 7, 9).double(), torch.randn(2, 5, 7, 9).double()
    with torch.no_grad():
        torch.testing.assert_close(own(skip, context), theirs(context, skip))


# --- the gate of the paper ------------------------------------------------------------------------


def test_a_gate_on_a_coarser_grid_by_a_slow_loop() -> None:
    """Equations 1 and 2 position by position."""
    gate = stir(AdditiveGate(3, 4, 2))
    skip, context = torch.randn(1, 3, 6, 4).double(), torch.randn(1, 4, 3, 2).double()
    with torch.no_grad():
        alpha = gate.weights(skip, context)
        wx, wg, psi = (m.weight.flatten(1) for m in (gate.skip, gate.context, gate.psi))
        for i in range(3):
            for j in range(2):
                x = skip[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
                q = torch.relu(wx @ x + wg @ context[0, :, i, j] + gate.context.bias)
                expected = torch.sigmoid(psi @ q + gate.psi.bias)
                torch.testing.assert_close(alpha[0, :, i, j], expected)
        full = F.interpolate(alpha, (6, 4), mode="bilinear", align_corners=False)
        torch.testing.assert_close(gate(skip, context), full * skip)


def test_levels_of_a_gate() -> None:
    gate = stir(AdditiveGate(3))
    skip, context = torch.randn(2, 1, 3, 5, 7).double()
    with torch.no_grad():
        assert torch.equal(gate(skip, context, 0.0), skip)
        half = (skip + gate(skip, context)) / 2
        torch.testing.assert_close(gate(skip, context, 0.5), half)
        with recording(nn.ModuleDict({"g": gate})) as tape:
            gate(skip, context)
    (record,) = tape.records
    assert (record.place, record.name, record.kind) == ("g", "gate", "spatial")
    assert torch.equal(record.values, gate.weights(skip, context)[:, 0])


@pytest.mark.parametrize("gating", ["fine", "coarse"])
def test_without_its_gates_it_is_a_unet(gating: str) -> None:
    torch.manual_seed(0)
    options = {"in_channels": 2, "width": 0.0625}
    model = create_model("attention_unet", gating=gating, **options).eval()
    x = torch.rand(1, 2, 48, 32)
    off = {tunable.name: 0.0 for tunable in model.tunables}
    with torch.no_grad():
        encoded = model.encode(x)
        plain = model.decode(model.decoder(encoded.features, encoded.skips), encoded.size)
        assert torch.equal(model(x, **off), plain)
        assert not torch.equal(model(x), plain)
    assert [t.name for t in model.tunables] == [f"level_{i + 1}" for i in range(len(model.gates))]
    assert len(model.gates) == (4 if gating == "fine" else 3)
    if gating == "coarse":
        unet = create_model("unet", **options).eval()
        unet.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            assert torch.equal(unet(x), plain)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unet", {"encoder": "vgg"}, "got encoder='vgg', expected one of plain, resnet18"),
        ("unet", {"width": 0}, "got width=0, expected a number above 0"),
        ("unet", {"levels": 9}, "got levels=9"),
        ("attention_unet", {"gating": "x"}, "got gating='x'"),
        ("deeplabv3plus", {"encoder": "plain"}, "expected one of resnet18, resnet34, resnet50"),
        ("hrnet", {"plan": "w20"}, "got plan='w20', expected one of w18, w32, w48"),
        ("resunet", {"up": "bicubic"}, "got up='bicubic'"),
        ("resunet", {"shortcut": 2}, "shortcut=2"),
    ],
)
def test_values_that_a_model_cannot_have(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        create_model(name, **options)
