"""What every registered attention must keep; a new file in ``attention/`` is tested by joining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from napari_attnseg import list_attentions
from napari_attnseg.attention.base import AttentionModule, attention_info, sample_attention
from napari_attnseg.attention.recording import PICTURES, recording
from napari_attnseg.attention.registry import attention_entry
from napari_attnseg.errors import InputError

C = 8
SIZES: dict[int, list[tuple[int, ...]]] = {
    2: [(17, 23), (1, 1), (13, 2)],
    3: [(3, 5, 7), (1, 1, 1)],
}
SMALL: dict[int, tuple[int, ...]] = {2: (7, 11), 3: (3, 5, 4)}
TINY: dict[int, tuple[int, ...]] = {2: (4, 5), 3: (2, 3, 4)}
CASES = [(name, ndim) for name in list_attentions() for ndim in attention_entry(name).ndim]
IDS = [f"{name}-{ndim}d" for name, ndim in CASES]


def fill(module: nn.Module, seed: int) -> None:
    """Every parameter random, zero-initialised ones too; running statistics too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn_like(b) * 0.1)
            elif name.endswith("running_var"):
                b.copy_(torch.rand_like(b) + 0.5)


def made(name: str, ndim: int, seed: int = 5, **options: Any) -> AttentionModule:
    """In evaluation mode, float64, with random numbers everywhere."""
    torch.manual_seed(seed)
    module = sample_attention(name, C, ndim=ndim, **options).double().eval()
    fill(module, seed)
    return module


def inputs(role: str, size: tuple[int, ...], batch: int = 2, **kw: Any) -> tuple[Any, ...]:
    """What a module of this role is called with, C channels everywhere."""
    kw = {"dtype": torch.float64, **kw}
    x = torch.randn(batch, C, *size, **kw)
    if role == "gate":
        return x, torch.randn(batch, C, *size, **kw)
    if role == "class-aware":
        return x, torch.randn(batch, 2, *size, **kw)
    if role == "fuser":
        sizes = [tuple(max(1, n // 2**i) for n in size) for i in range(4)]
        return ([torch.randn(batch, C, *s, **kw) for s in sizes],)
    return (x,)


def part(args: tuple[Any, ...], items: slice) -> tuple[Any, ...]:
    """Some items of the batch."""
    return tuple([t[items] for t in a] if isinstance(a, list) else a[items] for a in args)


@pytest.fixture(params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> tuple[AttentionModule, int]:
    name, ndim = request.param
    return made(name, ndim), ndim


@pytest.fixture(params=CASES, ids=IDS)
def tiny_case(request: pytest.FixtureRequest) -> tuple[AttentionModule, int]:
    """With the options that let everything act on a grid of a few positions."""
    name, ndim = request.param
    return made(name, ndim, **attention_entry(name).cls.tiny), ndim


def test_the_shape_is_kept(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    for size in SIZES[ndim]:
        y = module(*inputs(module.role, size))
        assert tuple(y.shape) == (2, C, *size)
        assert y.dtype == torch.float64
        assert y.isfinite().all()


def test_items_are_independent(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    args = inputs(module.role, SMALL[ndim], 3)
    torch.testing.assert_close(module(*args)[1:2], module(*part(args, slice(1, 2))))


def test_every_parameter_learns_but_the_inert(tiny_case: tuple[AttentionModule, int]) -> None:
    module, ndim = tiny_case
    biggest = {name: 0.0 for name, p in module.named_parameters() if p.requires_grad}
    for seed in range(5, 25):  # a ReLU may be dead under one draw
        fill(module, seed)
        module.zero_grad()
        out = module(*inputs(module.role, SMALL[ndim]))
        (out * torch.randn_like(out)).sum().backward()
        for name, p in module.named_parameters():
            if name not in biggest:
                continue
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            biggest[name] = max(biggest[name], float(p.grad.abs().max()))
        if seed >= 6 and all(most > 1e-9 or n in module.inert for n, most in biggest.items()):
            break
    for name, most in biggest.items():
        if name in module.inert:
            assert most <= 1e-7, name
        else:
            assert most > 1e-9, name
    assert all(module.inert.values())


def test_weights_round_trip(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    args = inputs(module.role, SMALL[ndim], 1)
    name = next(n for n in list_attentions() if attention_entry(n).cls is type(module))
    other = sample_attention(name, C, ndim=ndim).double().eval()
    other.load_state_dict(load(save(module.state_dict())))  # refuses tensors that share memory
    assert torch.equal(other(*args), module(*args))


def test_training_on_one_item_works(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    out = module.train()(*inputs(module.role, SMALL[ndim], 1))
    assert out.isfinite().all()
    out.sum().backward()


def test_memory_order_does_not_matter(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    args = inputs(module.role, SMALL[ndim])
    turned = tuple(
        [t.mT.contiguous().mT for t in a] if isinstance(a, list) else a.mT.contiguous().mT
        for a in args
    )
    torch.testing.assert_close(module(*turned), module(*args))


def test_shapes_alone_are_enough(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    y = module.to("meta")(*inputs(module.role, SMALL[ndim], device="meta"))
    assert y.is_meta
    assert tuple(y.shape) == (2, C, *SMALL[ndim])


def test_declarations(case: tuple[AttentionModule, int]) -> None:
    module, _ = case
    assert module.places
    assert module.emits
    assert module.maps
    names = [t.name for t in module.tunables]
    assert len(names) == len(set(names))
    for t in module.tunables:
        assert t.doc
        if t.kind == "choice":
            assert t.default in t.choices
        else:
            assert t.minimum <= float(t.default) <= t.maximum


@pytest.mark.parametrize(("name", "ndim"), CASES, ids=IDS)
def test_a_fresh_module_is_the_identity_where_claimed(name: str, ndim: int) -> None:
    torch.manual_seed(3)
    module = sample_attention(name, C, ndim=ndim).double().eval()
    args = inputs(module.role, SMALL[ndim])
    same = module.bypassable and torch.allclose(module(*args), args[0])
    assert same == module.identity_at_start


# --- recording ------------------------------------------------------------------------------------


class _Counted(TorchDispatchMode):
    """How many operations ran."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def held(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Tensors that hang on a module besides its parameters and buffers."""
    for name, part_ in module.named_modules():
        for key, value in vars(part_).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}", id(value)


def test_recording_changes_nothing_and_costs_nothing_when_off(
    case: tuple[AttentionModule, int],
) -> None:
    module, ndim = case
    args = inputs(module.role, SMALL[ndim])
    before, keys = dict(held(module)), set(module.state_dict())
    with torch.no_grad(), _Counted() as off:
        plain = module(*args)
    query = (0.3, 0.7, 0.9)[:ndim]
    with torch.no_grad(), recording(module, query) as tape, _Counted() as on:
        seen = module(*args)
    assert torch.equal(plain, seen)
    assert dict(held(module)) == before
    assert set(module.state_dict()) == keys
    assert module.probe is None
    assert tape.records
    assert off.count <= on.count - 2 * len(tape.records)  # each is detached and cloned


def test_records_are_what_the_module_declares(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    queries = [(0.3, 0.7, 0.9)[:ndim], (0.0, 0.0, 0.5)[:ndim]]
    with torch.no_grad(), recording(module, queries=queries) as tape:
        module(*inputs(module.role, SMALL[ndim]))
    assert {r.name for r in tape.records} <= set(module.maps)
    assert {r.kind for r in tape.records} <= set(module.emits)
    for r in tape.records:
        assert r.values.shape[0] == 2
        assert r.values.isfinite().all()
        assert not r.values.requires_grad
        if r.kind in PICTURES and r.values.ndim > 2 + (r.kind == "branch"):
            assert r.values.ndim >= 1 + ndim
            assert len(r.geometry.stride) in (0, ndim)
        if r.kind == "spatial":
            assert (r.values >= 0).all()
        if r.kind == "branch":
            total = r.values.sum(1)
            torch.testing.assert_close(total, torch.ones_like(total))
        assert not r.labels or len(r.labels) == r.values.shape[1]


def test_several_channels_are_shown_as_their_mean() -> None:
    module = made("gather_excite", 2, extent=4)
    with torch.no_grad(), recording(module) as tape:
        module(*inputs("refiner", (8, 12)))
    (record,) = tape.records
    assert record.values.shape == (2, C, 2, 3)
    torch.testing.assert_close(record.flat, record.values.mean(1))
    module = made("cbam", 2)
    with torch.no_grad(), recording(module) as tape:
        module(*inputs("refiner", (8, 12)))
    record = tape.records[-1]
    assert record.flat is record.values


# --- bypass ---------------------------------------------------------------------------------------


def test_it_is_let_through_as_far_as_asked(case: tuple[AttentionModule, int]) -> None:
    module, ndim = case
    args = inputs(module.role, SMALL[ndim])
    with pytest.raises(InputError, match=r"got effect=1\.5"):
        module.let_through(1.5)
    if not module.bypassable:
        with pytest.raises(InputError, match="stands in place of a layer"):
            module.let_through(0.0)
        return
    whole = module(*args)
    module.let_through(0.25)
    torch.testing.assert_close(module(*args), 0.75 * args[0] + 0.25 * whole)
    module.let_through(0.0)
    assert torch.equal(module(*args), args[0])
    with recording(module) as tape:
        assert torch.equal(module(*args), args[0])
    assert tape.records
    module.let_through(1.0)
    assert torch.equal(module(*args), whole)


# --- the unified formula --------------------------------------------------------------------------


def chebyshev(size: tuple[int, ...]) -> Tensor:
    """Steps between all pairs of positions of a grid: (N, N)."""
    at = torch.cartesian_prod(*(torch.arange(n) for n in size))
    return (at[:, None] - at[None]).abs().amax(-1)


LINEAR = [(n, d) for n, d in CASES if attention_entry(n).cls.structure]


@pytest.mark.parametrize(("name", "ndim"), LINEAR, ids=[f"{n}-{d}d" for n, d in LINEAR])
def test_the_materialised_operator_reproduces_the_forward(name: str, ndim: int) -> None:
    module = made(name, ndim, **attention_entry(name).cls.tiny)
    size = TINY[ndim]
    with torch.no_grad():
        args = inputs(module.role, size)
        op, values = module.operator(*args), module.values(*args)
        n = torch.Size(size).numel()
        assert op.shape == (2, values.shape[1], n, n)
        mixed = torch.einsum("bmij,bmcj->bmci", op, values)
        torch.testing.assert_close(module.collect(mixed, *args), module(*args))
    far = chebyshev(size)
    if module.stochastic:
        torch.testing.assert_close(op.sum(-1), torch.ones_like(op.sum(-1)))
    if module.structure == "diagonal":
        assert (op[..., far > 0] == 0).all()
    elif module.structure == "banded":
        assert (op[..., far > module.reach] == 0).all()
    elif module.structure == "lowrank":
        assert int(torch.linalg.matrix_rank(op).max()) <= module.rank < n
    elif module.structure == "sparse":
        assert (op == 0).double().mean() > 0.3
    else:
        assert (op != 0).any(1).all()  # products of three softmaxes underflow in single heads


# --- every choice, not only the defaults ----------------------------------------------------------

EXTRA: list[tuple[str, dict[str, Any]]] = [
    ("gather_excite", {"extent": 4, "mode": "conv"}),
    ("gather_excite", {"extent": 2, "mode": "conv_mlp"}),
    ("attention_gate", {"norm": True}),
    ("attention_gate", {"theta": "conv", "out": True}),
    ("reverse", {"axial": True}),
    ("sk", {"branches": 3, "groups": 1}),
    ("dynamic_conv", {"anneal": 0, "kernels": 2}),
]


def variants() -> list[tuple[str, dict[str, Any]]]:
    """One argument off its default, for every argument that has a few values."""
    found = [
        (name, {**attention_entry(name).cls.tiny, argument["name"]: value})
        for name in list_attentions()
        for argument in attention_info(name)["arguments"]
        for value in argument["choices"]
        if value != argument["default"]
    ]
    return found + EXTRA


VARIANTS = variants()


def words(case: tuple[str, dict[str, Any]]) -> str:
    return case[0] + "-" + ",".join(f"{k}={v}" for k, v in case[1].items())


@pytest.mark.parametrize("name", list_attentions())
def test_what_is_said_to_be_inert_exists(name: str) -> None:
    forms = [options for other, options in VARIANTS if other == name]
    entry = attention_entry(name)
    made_ = [sample_attention(name, C, ndim=d, **o) for d in entry.ndim for o in [{}, *forms]]
    assert set(entry.cls.inert) <= {n for m in made_ for n, _ in m.named_parameters()}


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=map(words, VARIANTS))
def test_other_choices_keep_the_contract(name: str, options: dict[str, Any]) -> None:
    ndim = attention_entry(name).ndim[0]
    module = made(name, ndim, **options)
    args = inputs(module.role, SMALL[ndim], 3)
    with torch.no_grad():
        y = module(*args)
        alone = module(*part(args, slice(1, 2)))
        with recording(module, (0.3, 0.7, 0.9)[:ndim]) as tape:
            assert torch.equal(module(*args), y)
        ones = module(*inputs(module.role, (1,) * ndim))
    assert tuple(y.shape) == (3, C, *SMALL[ndim])
    assert y.isfinite().all()
    assert ones.isfinite().all()
    torch.testing.assert_close(alone, y[1:2])
    assert {r.name for r in tape.records} <= set(module.maps)
    assert {r.kind for r in tape.records} <= set(module.emits)
    assert tape.records
    learning = {n: 0.0 for n, p in module.named_parameters() if p.requires_grad}
    for seed in range(5, 15):
        fill(module, seed)
        module.zero_grad()
        out = module(*args)
        if not out.requires_grad:  # nothing to learn: a given mask, a plain mean
            break
        (out * torch.randn_like(y)).sum().backward()
        for n, p in module.named_parameters():
            if p.grad is not None:
                assert p.grad.isfinite().all(), n
                learning[n] = max(learning[n], float(p.grad.abs().max()))
        if all(most > 1e-9 for most in learning.values()):
            break
    assert {n for n, most in learning.items() if most <= 1e-7} <= set(module.inert)
    assert load(save(module.state_dict())).keys() == module.state_dict().keys()
    meta = module.to("meta")(*inputs(module.role, SMALL[ndim], device="meta"))
    assert tuple(meta.shape) == (2, C, *SMALL[ndim])


@pytest.mark.parametrize(("name", "ndim"), CASES, ids=IDS)
def test_it_stays_finite_in_half_precision(name: str, ndim: int) -> None:
    torch.manual_seed(5)
    module = sample_attention(name, C, ndim=ndim).eval()
    args = inputs(module.role, SMALL[ndim], dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = module(*args)
    whole = module(*args)
    assert half.isfinite().all()
    near = torch.isclose(half.float(), whole, atol=0.15, rtol=0.15)
    assert near.double().mean() > 0.9  # a hard mask may flip where the score is near the threshold
