"""Convolutions that choose among branches or kernels, and the fuser of scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention import create_attention
from napari_attnseg.attention.branch import BranchAttention
from napari_attnseg.attention.dynamic_conv import DynamicConv, Temperature, conv_each
from napari_attnseg.attention.odconv import OmniConv
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.scale import ScaleAttention
from napari_attnseg.attention.sk import SelectiveKernel
from napari_attnseg.errors import InputError

C, OUT = 6, 10
SIZES = [(7, 11), (3, 5, 4)]
CONVOLVE = {2: F.conv2d, 3: F.conv3d}


def features(size: tuple[int, ...], channels: int = C, seed: int = 1, batch: int = 2) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, channels, *size, dtype=torch.float64)


def randomised(module: nn.Module) -> None:
    torch.manual_seed(4)
    module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.4)


@pytest.mark.parametrize("name", ["sk", "branch", "dynamic_conv", "odconv"])
@pytest.mark.parametrize("size", SIZES)
def test_the_number_of_channels_may_change(name: str, size: tuple[int, ...]) -> None:
    module = create_attention(name, C, out_channels=OUT, ndim=len(size)).double()
    assert module(features(size)).shape == (2, OUT, *size)


# --- selective kernels ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_selective_kernels_by_hand(size: tuple[int, ...]) -> None:
    module = SelectiveKernel(C, OUT, branches=3, groups=2, ndim=len(size))
    randomised(module)
    x = features(size)
    u = []
    for m, branch in enumerate(module.branches):
        assert isinstance(branch, nn.Sequential)
        made = CONVOLVE[len(size)](x, branch[0].weight, padding=m + 1, dilation=m + 1, groups=2)
        u.append(torch.relu(branch[1](made)))
    s = sum(u).flatten(2).mean(2)  # type: ignore[union-attr]
    z = module.squeeze(s)
    scores = (module.select.weight @ z.T).T.reshape(2, 3, OUT)
    a = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
    expected = sum(a[:, m].reshape(2, OUT, *[1] * len(size)) * u[m] for m in range(3))
    torch.testing.assert_close(module(x), expected)


def test_an_undecided_selector_averages_and_equal_branches_are_one() -> None:
    module = SelectiveKernel(C, groups=1)
    randomised(module)
    x = features((7, 11))
    equal = nn.ModuleList([module.branches[0], module.branches[0]])
    kept, module.branches = module.branches, equal
    torch.testing.assert_close(module(x), equal[0](x))
    module.branches = kept
    with torch.no_grad():
        module.select.weight.zero_()
    torch.testing.assert_close(module(x), (kept[0](x) + kept[1](x)) / 2)


# --- branch attention -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["branches", "autofocus"])
@pytest.mark.parametrize("size", SIZES)
def test_branches_by_hand(mode: str, size: tuple[int, ...]) -> None:
    module = BranchAttention(C, OUT, mode, "1,3", ndim=len(size))
    randomised(module)
    x = features(size)
    f = []
    for n, (norm, d) in enumerate(zip(module.norms, (1, 3), strict=True)):
        weight = module.convs[n if mode == "branches" else 0].weight
        made = CONVOLVE[len(size)](x, weight, padding=d, dilation=d)  # type: ignore[arg-type]
        f.append(torch.relu(norm(made)))
    raw = module.score(x)
    a = torch.exp(raw) / torch.exp(raw).sum(1, keepdim=True)
    torch.testing.assert_close(module(x), a[:, :1] * f[0] + a[:, 1:] * f[1])


def test_a_decided_scorer_takes_one_branch_and_an_undecided_one_the_mean() -> None:
    module = BranchAttention(C)
    randomised(module)
    x = features((7, 11))
    f = list(module.branches(x))
    last = module.score[2]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        torch.testing.assert_close(module(x), sum(f) / 4)
        last.bias[2] = 60.0
        torch.testing.assert_close(module(x), f[2])


def test_autofocus_shares_its_weights_and_its_scores_teach_nothing_below() -> None:
    module = BranchAttention(C, mode="autofocus", dilations="1,2")
    randomised(module)
    assert (len(module.convs), len(module.norms)) == (1, 2)
    x = features((7, 11)).requires_grad_()
    module.weights(x)[:, 0].sum().backward()
    assert x.grad is None
    module(x).sum().backward()
    assert x.grad is not None
    with pytest.raises(InputError, match="got dilations='1;2', expected at least two numbers"):
        BranchAttention(C, dilations="1;2")


def test_branch_weights_are_shown_with_their_dilations() -> None:
    module = BranchAttention(C, mode="autofocus").double()
    with recording(module) as tape:
        module(features((7, 11)))
    (record,) = tape.records
    assert record.labels == ("dilation 2", "dilation 6", "dilation 10", "dilation 14")
    assert (record.kind, record.values.shape) == ("branch", (2, 4, 7, 11))


# --- kernels made per image -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_every_item_is_convolved_with_its_own_kernel(size: tuple[int, ...]) -> None:
    x = features(size, batch=3)
    kernels = torch.randn(3, OUT, C, *[3] * len(size), dtype=torch.float64)
    biases = torch.randn(3, OUT, dtype=torch.float64)
    y = conv_each(x, kernels, biases)
    for item in range(3):
        alone = CONVOLVE[len(size)](x[item : item + 1], kernels[item], biases[item], padding=1)
        torch.testing.assert_close(y[item : item + 1], alone)


@pytest.mark.parametrize("size", SIZES)
def test_dynamic_convolution_is_the_mean_of_its_kernels_answers(size: tuple[int, ...]) -> None:
    module = DynamicConv(C, OUT, kernels=3, temperature=2.0, anneal=0, ndim=len(size))
    randomised(module)
    x = features(size)
    z = x.flatten(2).mean(2)
    pi = torch.softmax(module.mlp(z) / 2, 1)
    answers = [
        CONVOLVE[len(size)](x, w, b, padding=1)
        for w, b in zip(module.weight, module.bias, strict=True)
    ]
    expected = sum(
        pi[:, k].reshape(-1, 1, *[1] * len(size)) * answer for k, answer in enumerate(answers)
    )
    torch.testing.assert_close(module(x), expected)


def test_the_temperature_falls_in_training_alone_and_is_kept() -> None:
    t = Temperature(30.0, 4)
    one = torch.ones(1)
    t.eval()
    assert float(t(one)) == pytest.approx(1 / 30)
    t.train()
    seen = [1 / float(t(one)) for _ in range(6)]
    assert seen == pytest.approx([30, 22.75, 15.5, 8.25, 1, 1])
    other = Temperature(30.0, 4)
    other.load_state_dict(t.state_dict())
    assert float(other.eval()(one)) == 1
    with pytest.raises(InputError, match="got temperature=0"):
        Temperature(0, 4)


@pytest.mark.parametrize("size", SIZES)
def test_omni_convolution_without_heads_is_the_mean_kernel_by_eight(size: tuple[int, ...]) -> None:
    module = OmniConv(C, OUT, ndim=len(size))
    randomised(module)
    with torch.no_grad():
        for head in (module.kernels, module.inputs, module.outputs, module.sites):
            head.weight.zero_()
            head.bias.zero_()
    x = features(size)
    expected = CONVOLVE[len(size)](x, module.weight.mean(0), padding=1) / 8
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_omni_factors_may_stand_outside_the_convolution(size: tuple[int, ...]) -> None:
    module = OmniConv(C, OUT, ndim=len(size))
    randomised(module)
    x = features(size)
    a = module.parts(x)
    one = [1] * len(size)
    for item in range(2):
        mixed = sum(a["kernels"][item, k] * module.weight[k] for k in range(4))
        sites = a["places"][item].reshape(1, 1, *[3] * len(size))
        inside = x[item : item + 1] * a["inputs"][item].reshape(1, C, *one)
        y = CONVOLVE[len(size)](inside, mixed * sites, padding=1)  # type: ignore[arg-type]
        y = y * a["outputs"][item].reshape(1, OUT, *one)
        torch.testing.assert_close(module(x)[item : item + 1], y)
    assert a["kernels"].sum(1).tolist() == pytest.approx([1, 1])
    assert module(x)[:1].allclose(module(x[:1]))


def test_even_kernels_are_refused() -> None:
    for cls in (DynamicConv, OmniConv):
        with pytest.raises(InputError, match="expected 1 or more of an odd side"):
            cls(C, kernel=2)


# --- scales ---------------------------------------------------------------------------------------


def maps(channels: tuple[int, ...]) -> list[Tensor]:
    return [features((12 // 2**i, 9 // 2**i + 1), c, i) for i, c in enumerate(channels)]


def test_scales_by_hand() -> None:
    module = ScaleAttention((3, 5), 7, inner=2, reduction=2)
    randomised(module)
    x = maps((3, 5))
    size = x[0].shape[2:]
    f = [
        F.interpolate(p(m), size, mode="bilinear", align_corners=False)
        for p, m in zip(module.project, x, strict=True)
    ]
    whole = torch.cat(f, 1)
    both = module.mlp(whole.mean((2, 3))) + module.mlp(whole.amax((2, 3)))
    scores = torch.sigmoid(both)
    g = torch.stack([scores[:, :2].mean(1), scores[:, 2:].mean(1)], 1)
    first, last = module.spatial[0], module.spatial[2]
    parts, gates = [], []
    for s in range(2):
        weighted = f[s] * g[:, s, None, None, None]
        rows = slice(2 * s, 2 * s + 2)
        h = torch.relu(F.conv2d(weighted, first.weight[rows], first.bias[rows], padding=1))  # type: ignore[index]
        m = torch.sigmoid(F.conv2d(h, last.weight[s : s + 1], last.bias[s : s + 1]))  # type: ignore[index]
        parts.append(weighted * m + weighted + f[s])
        gates.append(1 + g[:, s, None, None, None] * (1 + m))
    torch.testing.assert_close(module(x), module.fuse(torch.cat(parts, 1)))
    with torch.no_grad(), recording(module) as tape:
        module(x)
    shown = {r.name: r.values for r in tape.records}
    total = gates[0] + gates[1]
    torch.testing.assert_close(shown["scales"], torch.cat([m / total for m in gates], 1))
    torch.testing.assert_close(shown["weights"], g)


def test_any_number_of_maps_of_any_size() -> None:
    assert ScaleAttention((3, 5, 4)).double()(maps((3, 5, 4))).shape == (2, 3, 12, 10)
    volume = ScaleAttention((3, 5), 6, ndim=3).double()
    found = volume([features((4, 6, 5), 3), features((2, 3, 3), 5)])
    assert found.shape == (2, 6, 4, 6, 5)
    with pytest.raises(InputError, match="got 1 maps, expected 2"):
        ScaleAttention((3, 5))(maps((3,)))


def test_every_scale_reaches_the_answer() -> None:
    module = ScaleAttention((3, 5, 4), 7).double().eval()
    x = [m.requires_grad_() for m in maps((3, 5, 4))]
    module(x).sum().backward()
    for m in x:
        assert m.grad is not None
        assert np.count_nonzero(m.grad.numpy()) == m.numel()
