"""Joint Attention against its slow twin, tables by hand and the mathematics of both halves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import slow_joint as slow
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg import create_attention
from napari_attnseg.attention.dot_product import NonLocal, is_linear_cheaper, mix
from napari_attnseg.attention.joint import JointAttention
from napari_attnseg.attention.pointwise import PointWiseAttention
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

NINE = [(s, "gate") for s in range(1, 10)]
ALL = [*NINE, *((s, "sum") for s in (1, 2, 3))]
C = 4


def randomised(module: nn.Module, dtype: torch.dtype = torch.float64, scale: float = 0.7):
    """Every parameter random, the zero-initialised W_z and all biases too."""
    torch.manual_seed(11)
    module = module.to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * scale)
    return module


def make(structure: int = 5, merge: str = "gate", **kw) -> JointAttention:
    return randomised(JointAttention(C, structure, merge, **kw))


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(4))


def plain(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


# --- slow twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("structure", "merge"), ALL)
@pytest.mark.parametrize("sigma", ["sigmoid", "none"])
def test_equals_the_slow_twin(structure: int, merge: str, sigma: str) -> None:
    module = make(structure, merge, sigma=sigma)
    x = noise(2, C, 5, 3)
    with torch.no_grad():
        y = module(x).numpy()
    for b in range(2):
        expected = slow.joint(x[b].numpy(), plain(module), structure, merge, sigma == "sigmoid")
        np.testing.assert_allclose(y[b], expected, atol=1e-11)


def test_the_single_attentions_equal_the_slow_twin() -> None:
    x = noise(1, C, 3, 5)
    for name in ("self_attention", "nonlocal"):
        sa = randomised(create_attention(name, C, inner_channels=3, mode="dot"))
        expected = slow.nonlocal_(x[0].numpy(), plain(sa)) + x[0].numpy()
        np.testing.assert_allclose(sa(x)[0].detach().numpy(), expected, atol=1e-12)
    for sigma in ("sigmoid", "none"):
        pwa = randomised(create_attention("pointwise", C, sigma=sigma))
        w = slow.pointwise_map(x[0].numpy(), plain(pwa), sigma == "sigmoid")
        np.testing.assert_allclose(pwa(x)[0].detach().numpy(), x[0].numpy() * w, atol=1e-12)


@pytest.mark.parametrize("n2", [1, 3])
def test_the_unified_form_with_nine_heads_is_a_convolution(n2: int) -> None:
    x, kernel, bias = noise(1, C, 5, 4), noise(n2, C, 3, 3), noise(n2)
    expected = F.conv2d(x, kernel, bias, padding=1)[0].numpy()
    got = slow.conv3x3(x[0].numpy(), kernel.numpy(), bias.numpy())
    np.testing.assert_allclose(got, expected, atol=1e-12)


# --- the order of the products --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
@pytest.mark.parametrize(("d", "e", "n"), [(3, 3, 77), (8, 2, 5), (2, 9, 1)])
def test_both_orders_agree(d: int, e: int, n: int, dtype: torch.dtype, tolerance: float) -> None:
    theta, phi, g = (
        noise(2, d, n, dtype=dtype),
        noise(2, d, n, dtype=dtype),
        noise(2, e, n).to(dtype),
    )
    one, other = mix(theta, phi, g, "linear"), mix(theta, phi, g, "quadratic")
    textbook = torch.einsum("bdi,bdj,bej->bei", theta.double(), phi.double(), g.double()) / n
    for got in (one, other, mix(theta, phi, g)):
        torch.testing.assert_close(got.double(), textbook, atol=tolerance, rtol=tolerance)


def test_association_equals_the_n_by_n_form_at_64() -> None:
    """64 x 64, C = 64, float32: the whole module in both orders."""
    module = NonLocal(64)
    torch.manual_seed(0)
    nn.init.normal_(module.w_z.weight, std=64**-0.5)
    x = torch.randn(1, 64, 64, 64)
    twin = copy.deepcopy(module)
    module.order, twin.order = "linear", "quadratic"
    with torch.no_grad():
        torch.testing.assert_close(module(x), twin(x), atol=1e-5, rtol=0)


def test_the_cheaper_order_is_taken() -> None:
    """With d = e linear where d < N; otherwise by the count of multiply-adds."""
    assert is_linear_cheaper(32, 32, 33)
    assert not is_linear_cheaper(32, 32, 31)
    for d, e, n in ((4, 60, 8), (60, 4, 8), (1056, 1056, 256)):
        assert is_linear_cheaper(d, e, n) == (n * d * e + n * e * d < n * n * d + n * n * e)
    made = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(o.numel() for o in [out] if isinstance(o, Tensor))
            return out

    with torch.no_grad(), Spy():
        NonLocal(8)(torch.randn(1, 8, 30, 30))
    assert max(made) < 900 * 900 / 50


def test_half_precision_does_not_overflow_in_between() -> None:
    """Sums over 40,000 positions of products of 3 leave half precision unless divided first."""
    theta = phi = g = torch.full((1, 2, 40_000), 3.0, dtype=torch.float16)
    assert mix(theta, phi, g, "linear").eq(54).all()


# --- mathematics ----------------------------------------------------------------------------------


def without_biases(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    return module


def test_self_attention_is_homogeneous_of_degree_three_without_biases() -> None:
    a = without_biases(randomised(NonLocal(C)))
    x = noise(1, C, 4, 5)
    torch.testing.assert_close(a(-1.7 * x), (-1.7) ** 3 * a(x))


def test_self_attention_ignores_where_pixels_lie_and_point_wise_does_not() -> None:
    a, pwa = randomised(NonLocal(C)), randomised(PointWiseAttention(C))
    x = noise(1, C, 5, 7)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(1))

    def permuted(t: Tensor) -> Tensor:
        return t.flatten(2)[..., order].view_as(t)

    torch.testing.assert_close(a(permuted(x)), permuted(a(x)))
    assert (pwa(permuted(x)) - permuted(pwa(x))).abs().max() > 1e-2


def test_point_wise_attention_follows_shifts_in_the_interior() -> None:
    pwa = randomised(PointWiseAttention(C))
    x = noise(1, C, 8, 9)
    moved = pwa(x.roll((2, 1), (-2, -1))).roll((-2, -1), (-2, -1))
    torch.testing.assert_close(moved[..., 1:5, 1:7], pwa(x)[..., 1:5, 1:7])


def test_a_constant_image_stays_constant_under_self_attention() -> None:
    x = noise(1, C, 1, 1).expand(-1, -1, 4, 6)
    y = randomised(NonLocal(C))(x)
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))


@pytest.mark.parametrize("structure", range(1, 10))
def test_a_fresh_module_is_point_wise_attention_or_the_identity(structure: int) -> None:
    module = JointAttention(C, structure).double()
    x = noise(2, C, 4, 5)
    w = module.w(x)
    expected = {1: x * w, 2: x, 0: x * (1 + w)}[structure % 3]
    torch.testing.assert_close(module(x), expected)
    if structure in (2, 5, 8):
        assert torch.equal(module(x), x)


def held(module: JointAttention, bias: float) -> JointAttention:
    """The point-wise map at a constant: a bias of +-60 is 1 or (nearly) 0."""
    with torch.no_grad():
        module.w.conv.weight.zero_()
        module.w.conv.bias.fill_(bias)
    return module


@pytest.mark.parametrize("structure", range(1, 10))
def test_a_map_of_ones_leaves_self_attention(structure: int) -> None:
    module = held(make(structure), 60.0)
    x, a = noise(1, C, 4, 5), module.a
    table = {3: 2 * (a(x) + x), 6: 2 * (a(x) + x), 9: a(2 * x) + 2 * x}
    torch.testing.assert_close(module(x), table.get(structure, a(x) + x))


@pytest.mark.parametrize("structure", range(1, 10))
def test_a_map_of_zeros_leaves_the_shortcuts(structure: int) -> None:
    module = held(make(structure), -60.0)
    x, a = noise(1, C, 4, 5), module.a
    nothing = torch.zeros_like(x)
    expected = {
        1: nothing,
        4: nothing,
        2: x,
        5: x,
        3: a(x) + x,
        6: a(x) + x,
        7: a(nothing),
        8: x + a(nothing),
        9: a(x) + x,
    }[structure]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(("structure", "merge"), ALL)
def test_gradients(structure: int, merge: str) -> None:
    module = make(structure, merge)
    names = [n for n, _ in module.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    inputs = [noise(1, C, 3, 3), *(p.detach().clone() for p in module.parameters())]
    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in inputs])


def test_the_structures_differ_from_each_other() -> None:
    x = noise(1, C, 4, 5)
    made = [make(*case)(x) for case in ALL]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert (one - other).abs().max() > 1e-2


def test_merges_matter_only_for_the_parallel_structures() -> None:
    x = noise(1, C, 4, 5)
    for structure in range(4, 10):
        assert torch.equal(make(structure, "sum")(x), make(structure)(x))


@pytest.mark.parametrize("channels", [1, 5, 96])
def test_parameters(channels: int) -> None:
    d = max(1, channels // 2)
    module = JointAttention(channels)
    nonlocal_ = 4 * channels * d + 3 * d + channels
    assert sum(p.numel() for p in module.parameters()) == nonlocal_ + 9 * channels + 1


# --- strength and maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["joint", "self_attention", "pointwise"])
def test_strength_goes_from_the_input_to_the_module(name: str) -> None:
    module = randomised(create_attention(name, C))
    x = noise(2, C, 4, 5)
    y = module(x)
    assert torch.equal(module(x, strength=1.0), y)
    assert torch.equal(module(x, strength=0.0), x)
    torch.testing.assert_close(module(x, strength=0.3), 0.7 * x + 0.3 * y)
    assert [t.name for t in module.tunables] == ["strength"]


@pytest.mark.parametrize("structure", [2, 5, 8])
def test_recorded_maps_equal_the_slow_twin(structure: int) -> None:
    module = make(structure)
    x = noise(2, C, 3, 5)
    silent = module(x)
    with torch.no_grad(), recording(module, query=(0.5, 0.7)) as tape:
        assert torch.equal(module(x), silent)
    found = {r.name: r for r in tape.records}
    assert {n: r.kind for n, r in found.items()} == {
        "pointwise": "spatial",
        "received": "signed",
        "row": "row",
    }
    assert set(found) == set(module.maps)
    for b in range(2):
        item, p = x[b].numpy(), plain(module)
        entered = item * slow.pointwise_map(item, p) if structure == 8 else item
        weighed = slow.nonlocal_(item, p) if structure == 5 else item
        a = slow.matrix_of(entered, p)
        maps = {"received": a.mean(0), "row": a[1 * 5 + 3], "pointwise": None}
        maps["pointwise"] = slow.pointwise_map(weighed, p)[0]
        for name, expected in maps.items():
            assert found[name].values.shape == (2, 3, 5)
            np.testing.assert_allclose(
                found[name].values[b].numpy().ravel(), expected.ravel(), atol=1e-12
            )


def test_maps_are_seen_at_strength_zero_and_rows_only_when_asked_for() -> None:
    module, x = make(), noise(1, C, 3, 4)
    with torch.no_grad(), recording(module) as tape:
        assert torch.equal(module(x, strength=0.0), x)
    assert {r.name for r in tape.records} == {"pointwise", "received"}
    bare = make(sigma="none")
    with torch.no_grad(), recording(bare) as tape:
        bare(x)
    (w,) = (r for r in tape.records if r.name == "pointwise")
    assert w.kind == "signed"
    assert (w.values < 0).any()


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"structure": 0}, "got structure=0, expected 1 to 9"),
        ({"structure": 10}, "got structure=10"),
        ({"parallel_merge": "max"}, "got parallel_merge 'max', expected gate or sum"),
        ({"sigma": "tanh"}, "got sigma 'tanh', expected sigmoid or none"),
        ({"inner_channels": 0}, "got inner_channels=0, expected at least 1"),
    ],
)
def test_bad_options_are_refused(kw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        JointAttention(C, **kw)


def test_a_copy_is_independent() -> None:
    """Modules travel: the trainer and the session copy models."""
    module, x = make(3), noise(1, C, 3, 4)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    assert isinstance(twin, JointAttention)
