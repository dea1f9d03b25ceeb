"""Gates by position or by both: Gather-Excite, coordinate, CBAM, BAM, additive and reverse gates,
hard attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gate_inputs import SIZES, C, features, filled
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention import create_attention
from napari_attnseg.attention.additive_gate import AdditiveGate
from napari_attnseg.attention.bam import BAM
from napari_attnseg.attention.cbam import CBAM
from napari_attnseg.attention.coordinate import CoordinateAttention
from napari_attnseg.attention.gather_excite import GatherExcite
from napari_attnseg.attention.pointwise import PointWiseAttention
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.reverse import ReverseAttention
from napari_attnseg.attention.se import SqueezeExcitation


@pytest.mark.parametrize(
    ("name", "factor"), [("coordinate", 0.25), ("cbam", 0.25), ("bam", 1.5), ("gather_excite", 0.5)]
)
@pytest.mark.parametrize("size", SIZES)
def test_without_weights(name: str, factor: float, size: tuple[int, ...]) -> None:
    if name == "coordinate" and len(size) == 3:
        factor = 0.125  # three profiles
    module = create_attention(name, C, ndim=len(size))
    filled(module, 0.0)
    x = features(size)
    torch.testing.assert_close(module(x), x * factor)


# --- Gather-Excite --------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_a_constant_image_is_weighted_by_itself(extent: int, size: tuple[int, ...]) -> None:
    module = GatherExcite(C, extent, "mean", ndim=len(size))
    v = torch.randn(2, C, *[1] * len(size), dtype=torch.float64)
    x = v.expand(2, C, *size)
    torch.testing.assert_close(module(x), x * torch.sigmoid(v))


def test_window_means_count_what_lies_inside() -> None:
    x = features((7, 11), 3)
    found = GatherExcite(3, 2, "mean").gathered(x)
    assert found.shape == (2, 3, 4, 6)
    for i in range(4):
        for j in range(6):
            rows, cols = slice(max(0, 2 * i - 1), 2 * i + 2), slice(max(0, 2 * j - 1), 2 * j + 2)
            torch.testing.assert_close(found[..., i, j], x[..., rows, cols].mean((2, 3)))


def test_with_a_mean_kernel_gathering_everything_is_squeeze_and_excitation() -> None:
    module, se = GatherExcite(C, 0, "conv_mlp", grid=4, reduction=4), SqueezeExcitation(C, 4)
    filled(module)
    filled(se)
    gather = list(module.gather)
    with torch.no_grad():
        gather[0].weight.fill_(1 / 16)  # type: ignore[union-attr]
        for mine, layer in ((gather[3], se.mlp[0]), (gather[5], se.mlp[2])):
            layer.weight.copy_(mine.weight.flatten(1))  # type: ignore[union-attr]
            layer.bias.copy_(mine.bias)  # type: ignore[union-attr]
    x = features((8, 12)).abs()  # above zero the additional ReLU changes nothing
    torch.testing.assert_close(module(x), se(x), atol=1e-4, rtol=1e-4)  # eps of the normalisation


def test_strided_gathering_sees_its_extent_alone() -> None:
    module = GatherExcite(2, 4, "conv").double().eval()
    filled(module)
    x = features((16, 16), 2).requires_grad_()
    module.gathered(x)[0, 0, 1, 1].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()
    assert seen.amin(0).tolist() == [1, 1]  # two 3 x 3 convolutions with stride 2: 7 wide
    assert seen.amax(0).tolist() == [7, 7]
    assert not x.grad[0, 1].any()  # depthwise


def test_a_coarse_gate_is_shown_where_it_acts() -> None:
    module = GatherExcite(C, 4, "mean")
    x = features((8, 12))
    with recording(module) as tape:
        y = module(x)
    (record,) = tape.records
    assert (record.name, record.kind) == ("gate", "spatial")
    assert record.geometry.stride == (4.0, 4.0)
    assert record.geometry.offset == (1.5, 1.5)
    torch.testing.assert_close(record.values.repeat_interleave(4, 2).repeat_interleave(4, 3) * x, y)


# --- coordinate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_gate_of_a_channel_is_an_outer_product(size: tuple[int, ...]) -> None:
    module = CoordinateAttention(C, ndim=len(size))
    filled(module)
    x = features(size)
    gate = module.weights(x)
    for unfolded in range(len(size)):
        matrix = gate.movedim(2 + unfolded, 2).flatten(3)
        assert (torch.linalg.matrix_rank(matrix) == 1).all()
    with torch.no_grad(), recording(module) as tape:
        module(x)
    axes = [r for r in tape.records if r.kind == "axes"]
    assert [r.axis for r in axes] == list(range(len(size)))
    assert [r.values.shape[-1] for r in axes] == list(size)
    assert [r.name for r in axes] == ["depth", "rows", "columns"][-len(size) :]


def test_a_turned_image_with_exchanged_heads_is_turned() -> None:
    module, other = CoordinateAttention(C), CoordinateAttention(C)
    filled(module)
    other.load_state_dict(module.state_dict())
    other.double().eval()
    other.gates = nn.ModuleList([other.gates[1], other.gates[0]])
    x = features((7, 11))
    torch.testing.assert_close(other(x.mT), module(x).mT)


def test_coordinate_by_hand() -> None:
    module = CoordinateAttention(C)
    filled(module)
    x = features((5, 6))
    w1 = module.shared[0].weight.detach().squeeze(-1).numpy()
    heads = [(g.weight.detach().squeeze(-1).numpy(), g.bias.detach().numpy()) for g in module.gates]
    item = x[1].numpy()
    norm = 1 / np.sqrt(1 + 1e-5)  # fresh running statistics
    gates = []
    for axis, (w, b) in zip((2, 1), heads, strict=True):
        f = w1 @ item.mean(axis) * norm
        f = f * np.clip(f + 3, 0, 6) / 6
        gates.append(1 / (1 + np.exp(-(w @ f + b[:, None]))))
    expected = item * gates[0][:, :, None] * gates[1][:, None, :]
    np.testing.assert_allclose(module(x)[1].detach().numpy(), expected, atol=1e-12)


# --- CBAM and BAM ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_cbam_weighs_positions_of_what_the_channels_left(size: tuple[int, ...]) -> None:
    module = CBAM(C, reduction=4, ndim=len(size))
    filled(module)
    x = features(size)
    flat = x.flatten(2)
    s = torch.sigmoid(module.mlp(flat.mean(2)) + module.mlp(flat.max(2).values))
    left = x * s.reshape(2, C, *[1] * len(size))
    planes = torch.stack([left.max(1).values, left.mean(1)], 1)
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    m = torch.sigmoid(convolve(planes, module.spatial[0].weight, padding=3) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(module(x), left * m)
    wrong = torch.stack([x.max(1).values, x.mean(1)], 1)
    assert not torch.allclose(planes, wrong)  # the order can be told apart here


@pytest.mark.parametrize("merge", ["sum", "product"])
def test_bam_strengthens_between_once_and_twice(merge: str) -> None:
    module = BAM(C, reduction=4, merge=merge)
    filled(module)
    x = features((7, 11)).abs() + 0.1
    gain = module(x) / x
    assert (gain > 1).all()
    assert (gain < 2).all()
    score = torch.logit(gain - 1)
    if merge == "sum":  # a plane of scores per channel, apart by a constant
        apart = score - score[:, :1]
        torch.testing.assert_close(apart, apart.mean((2, 3), keepdim=True).expand_as(apart))
    else:
        rank = torch.linalg.matrix_rank(score.flatten(2), rtol=1e-8)
        assert (rank == 1).all()


def test_bam_sees_as_far_as_its_dilations() -> None:
    module = BAM(C, reduction=2, dilation=4)
    filled(module)
    x = features((31, 31)).requires_grad_()
    module.spatial(x)[0, 0, 15, 15].backward()
    assert x.grad is not None
    rows = x.grad[0].abs().sum((0, 2)).nonzero().flatten().tolist()
    assert (rows[0], rows[-1]) == (7, 23)  # 2 dilations of 4 on either side


# --- point-wise -----------------------------------------------------------------------------------


def test_nine_shifted_heads_are_one_convolution() -> None:
    module = PointWiseAttention(4, sigma="none").double()
    filled(module)
    x = features((7, 11), 4)
    weight, bias = module.w.conv.weight, module.w.conv.bias
    total = torch.zeros_like(x)
    padded = F.pad(x, (1, 1, 1, 1))
    for dy in range(3):
        for dx in range(3):
            shifted = padded[:, :, dy : dy + 7, dx : dx + 11]
            head = torch.einsum("bchw,c->bhw", shifted, weight[0, :, dy, dx])
            total = total + x * head[:, None]
    torch.testing.assert_close(module(x), total + x * bias)


# --- the additive gate ----------------------------------------------------------------------------


def gate_inputs(size: tuple[int, ...], context: int = 6) -> tuple[Tensor, Tensor]:
    return features(size), features(tuple((n + 1) // 2 for n in size), context, 2)


@pytest.mark.parametrize("theta", ["mean", "conv"])
@pytest.mark.parametrize("size", SIZES)
def test_the_gate_opens_and_closes(theta: str, size: tuple[int, ...]) -> None:
    module = AdditiveGate(C, 6, theta=theta, ndim=len(size))
    x, g = gate_inputs(size)
    filled(module, 0.0)
    torch.testing.assert_close(module(x, g), x / 2)
    assert isinstance(module.psi, nn.Conv2d | nn.Conv3d)
    with torch.no_grad():
        module.psi.bias.fill_(40.0)  # type: ignore[union-attr]
    torch.testing.assert_close(module(x, g), x)


def test_without_products_the_map_is_constant() -> None:
    module = AdditiveGate(C, 6)
    x, g = gate_inputs((7, 11))
    filled(module)
    with torch.no_grad():
        module.skip.weight.zero_()  # type: ignore[union-attr,operator]
        module.context.weight.zero_()  # type: ignore[union-attr,operator]
    alpha = module.weights(x, g)
    torch.testing.assert_close(alpha, alpha.mean((2, 3), keepdim=True).expand_as(alpha))


def test_the_published_form_convolves_with_stride_two() -> None:
    module = AdditiveGate(64, 128, theta="conv", out=True)
    assert sum(p.numel() for p in module.parameters()) == 16_641
    module = AdditiveGate(4, 3, theta="conv")
    filled(module)
    x, g = features((6, 8), 4), features((3, 4), 3, 2)
    alpha = module.weights(x, g)
    wx = module.skip.weight  # type: ignore[union-attr]
    for i in range(3):
        for j in range(4):
            patch = x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            q = torch.einsum("chw,ochw->o", patch, wx)  # type: ignore[arg-type]
            q = q + module.context(g)[0, :, i, j]
            a = torch.sigmoid(module.psi.weight.flatten() @ torch.relu(q) + module.psi.bias)  # type: ignore[union-attr,operator]
            torch.testing.assert_close(alpha[0, :, i, j], a)


def test_the_normalised_gate_is_monais() -> None:
    nets = pytest.importorskip("monai.networks.nets.attentionunet")
    theirs = nets.AttentionBlock(2, f_int=8, f_g=6, f_l=C).double().eval()
    ours = AdditiveGate(C, 6, inner=8, norm=True).double().eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p))
        for mine, part in (
            (ours.skip, theirs.W_x),
            (ours.context, theirs.W_g),
            (ours.psi, theirs.psi),
        ):
            convolution, norm = part[0].conv, part[1]
            convolution.bias.zero_()  # which the normalisation takes away again in training
            mine[0].weight.copy_(convolution.weight)  # type: ignore[index]
            mine[1].load_state_dict(norm.state_dict())  # type: ignore[index]
    x, g = features((7, 11)), features((7, 11), 6, 2)
    torch.testing.assert_close(ours(x, g), theirs(g, x))


# --- reverse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_reverse_and_forward_gate_are_the_whole(size: tuple[int, ...]) -> None:
    module = ReverseAttention(C, 6, ndim=len(size))
    filled(module)
    x, g = gate_inputs(size)
    forward = x * torch.sigmoid(module.logits(x, g))
    torch.testing.assert_close(module(x, g) + forward, x)


def test_the_refined_logit_stays_for_the_loss() -> None:
    module = ReverseAttention(C, 6, side=True).double()
    x, g = gate_inputs((7, 11))
    y = module.train()(x, g)
    assert module.refine is not None
    assert module.refined is not None
    torch.testing.assert_close(module.refined, module.refine(y) + module.logits(x, g))
    module.eval()(x, g)
    assert module.refined is None


@pytest.mark.parametrize("axis", [0, 1])
def test_each_line_looks_along_its_own_axis(axis: int) -> None:
    module = ReverseAttention(C, 6, axial=True)
    filled(module)
    line = module.look.axes[axis]  # type: ignore[union-attr,index]
    with torch.no_grad():
        line.gamma.fill_(1.0)  # type: ignore[union-attr,operator]
    x = features((5, 7)).requires_grad_()
    line(x)[0, :, 2, 3].sum().backward()  # type: ignore[operator]
    assert x.grad is not None
    seen = (x.grad[0].abs().sum(0) > 0).nonzero()
    assert seen[:, 1 - axis].unique().tolist() == [(3, 2)[axis]]
    assert len(seen) == (5, 7)[axis]
