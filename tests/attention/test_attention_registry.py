"""What every registered attention must keep; a new file in ``attention/`` is tested by joining."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import Tensor

from napari_attnseg import create_attention, list_attentions
from napari_attnseg.attention import base
from napari_attnseg.attention.base import AttentionModule, attention_class, register_attention
from napari_attnseg.attention.smooth import SmoothAttention
from napari_attnseg.errors import InputError

C = 6


def randomised(name: str) -> AttentionModule:
    """In evaluation mode, float64, with every parameter random (zero-initialised ones too)."""
    torch.manual_seed(5)
    module = create_attention(name, C).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return module


def answer(module: AttentionModule, x: Tensor) -> Tensor:
    """The module on ``x``; a gate hears ``x`` turned about as its context."""
    return module(x, x.flip(-1, -2)) if module.role == "gate" else module(x)


@pytest.fixture(params=list_attentions())
def module(request: pytest.FixtureRequest) -> AttentionModule:
    return randomised(request.param)


def test_the_list_holds_smooth() -> None:
    assert "smooth" in list_attentions()
    assert all(isinstance(name, str) for name in list_attentions())


@pytest.mark.parametrize("size", [(7, 11), (1, 1), (13, 2)])
def test_refiners_and_gates_keep_the_shape(module: AttentionModule, size: tuple[int, int]) -> None:
    if module.role not in ("refiner", "gate"):
        pytest.skip("of another shape by its role")
    x = torch.randn(2, C, *size, dtype=torch.float64)
    y = answer(module, x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()


def test_items_are_independent(module: AttentionModule) -> None:
    x = torch.randn(3, C, 7, 11, dtype=torch.float64)
    torch.testing.assert_close(answer(module, x)[1:2], answer(module, x[1:2]))


def test_every_parameter_learns_but_the_inert(module: AttentionModule) -> None:
    x = torch.randn(2, C, 7, 11, dtype=torch.float64)
    out = answer(module, x)
    (out * torch.randn_like(out)).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        biggest = p.grad.abs().max()
        if name in module.inert:
            assert biggest <= 1e-7, name
        else:
            assert biggest > 1e-9, name
    assert set(module.inert) <= {name for name, _ in module.named_parameters()}


def test_weights_round_trip(module: AttentionModule) -> None:
    x = torch.randn(1, C, 7, 11, dtype=torch.float64)
    other = type(module)(C).double().eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(answer(other, x), answer(module, x))


def test_declarations(module: AttentionModule) -> None:
    assert module.places
    names = [t.name for t in module.tunables]
    assert len(names) == len(set(names))
    for t in module.tunables:
        assert t.doc
        if t.kind == "choice":
            assert t.default in t.choices
        else:
            assert t.minimum <= float(t.default) <= t.maximum


def test_create_passes_options_on() -> None:
    module = create_attention("smooth", 8, key_channels=3, rule="authors", threshold=0.3)
    assert isinstance(module, SmoothAttention)
    assert module.query.weight.shape == (3, 8, 1, 1)
    assert (module.rule, module.threshold) == ("authors", 0.3)


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(InputError, match=r"got attention 'smoth', expected one of .*smooth"):
        create_attention("smoth", 4)


class Outside(AttentionModule):
    """An attention of another package."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


def test_other_packages_join_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("outside", f"{__name__}:Outside", base.GROUP)
    monkeypatch.setattr(base, "entry_points", lambda **kw: EntryPoints([entry]).select(**kw))
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    assert list_attentions() == sorted({*base._REGISTRY, "outside"})
    assert attention_class("outside").__name__ == "Outside"
    assert create_attention("outside", 4).channels == 4


def test_a_name_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    register_attention("outside")(Outside)
    register_attention("outside")(Outside)  # the same class again is no clash
    with pytest.raises(ValueError, match="second attention called 'outside'"):
        register_attention("outside")(SmoothAttention)
