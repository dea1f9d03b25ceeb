"""The list of attentions: names, order, options, other packages, what is told of each."""

from __future__ import annotations

import json
import os
import warnings
from copy import copy
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

from napari_attnseg import create_attention, list_attentions
from napari_attnseg.attention import attention_info, registry, sample_attention
from napari_attnseg.attention.base import (
    AttentionModule,
    attention_class,
    plugin_problems,
    register_attention,
)
from napari_attnseg.attention.info import items, sections
from napari_attnseg.attention.smooth import SmoothAttention
from napari_attnseg.errors import InputError
from napari_attnseg.own_files import VARIABLE, fingerprint


class Outside(AttentionModule):
    """Doubles everything.

    Formula:
        y = factor * x
    Symbols:
        x: features (B, C, H, W)
    Args:
        factor: what all
            features are multiplied by
        mode: which way

    Words that belong to no section.
    """

    choices = {"mode": ("up", "down")}  # noqa: RUF012 (as a stranger writes it)

    def __init__(self, channels: int, factor: float = 2.0, mode: str = "up") -> None:
        super().__init__()
        self.channels, self.factor, self.mode = channels, factor, self.checked("mode", mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of the registry last one test."""
    for name in ("_REGISTRY", "_ALIASES", "_PROBLEMS", "_FILES"):
        monkeypatch.setattr(registry, name, copy(getattr(registry, name)))


def bring(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    entries = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in found)
    monkeypatch.setattr(registry, "entry_points", lambda **kw: entries.select(**kw))


def test_the_catalogue_comes_first_and_in_order(fresh: None) -> None:
    register_attention("aaa_other")(Outside)
    names = list_attentions()
    ids = [attention_info(n)["id"] for n in names]
    known = [i for i in ids if i]
    assert known == sorted(known)
    assert len(set(known)) == len(known)
    assert ids == known + [""] * (len(ids) - len(known))
    assert names[-1] == "aaa_other"
    assert "smooth" in names


CATALOGUE = (
    "se eca sk gsop gather_excite psa coordinate pointwise attention_gate cbam bam position "
    "channel branch dynamic_conv odconv scale nonlocal ann axial criss_cross interlaced_sparse "
    "sasa ema vit swin cross luong hard frequency iau temporal ocr reverse joint smooth "
    "spatial_propagation"
)


def test_all_of_the_catalogue_is_there() -> None:
    names = list_attentions()
    assert names[:37] == CATALOGUE.split()
    assert [attention_info(n)["id"] for n in names[:37]] == [f"A{i:02}" for i in range(1, 38)]


@pytest.mark.parametrize("name", CATALOGUE.split())
def test_a_page_can_be_made_of_every_docstring(name: str) -> None:
    told = attention_info(name)
    for section in ("formula", "symbols", "cost"):
        assert told["doc"][section], section
    for argument in told["arguments"]:
        assert argument["doc"], argument["name"]


def test_former_names_are_understood_but_not_listed() -> None:
    assert attention_class("additive") is attention_class("attention_gate")
    assert "additive" not in list_attentions()


def test_create_passes_options_on() -> None:
    module = create_attention("smooth", 8, key_channels=3, rule="authors", threshold=0.3)
    assert isinstance(module, SmoothAttention)
    assert module.query.weight.shape == (3, 8, 1, 1)
    assert (module.rule, module.threshold) == ("authors", 0.3)


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(InputError, match=r"got attention 'smoth', expected one of .*smooth"):
        create_attention("smoth", 4)


def test_unknown_options_are_answered_with_the_known() -> None:
    with pytest.raises(InputError, match=r"got option 'rul' for attention 'smooth'.*'rule'\?"):
        create_attention("smooth", 4, rul="paper")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "3"}, r"got structure='3' for attention 'joint', expected int"),
        ({"structure": True}, r"got structure=True for attention 'joint', expected int"),
        ({"inner_channels": 1.5}, r"got inner_channels=1.5 .* expected int or None"),
    ],
)
def test_values_of_another_type_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_attention("joint", 4, **options)


def test_axes_a_module_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="got 3 spatial axes for 'smooth', expected 2"):
        create_attention("smooth", 4, ndim=3)


def test_other_packages_join_by_entry_point(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    bring(monkeypatch, ("outside", f"{__name__}:Outside"))
    before = [*registry._REGISTRY]
    assert list_attentions() == [*sorted(before, key=lambda n: registry._REGISTRY[n].id), "outside"]
    assert attention_class("outside").__name__ == "Outside"
    assert create_attention("outside", 4, factor=3).channels == 4
    assert attention_info("outside")["role"] == "refiner"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_package_at_all:Thing", "ModuleNotFoundError"),
        (f"{__name__}:bring", "expected a class derived from AttentionModule"),
        (f"{__name__}:Missing", "AttributeError"),
    ],
)
def test_a_failing_package_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, fresh: None, value: str, reason: str
) -> None:
    bring(monkeypatch, ("broken", value), ("outside", f"{__name__}:Outside"))
    with pytest.warns(RuntimeWarning, match="attention 'broken' of .* was left out"):
        names = list_attentions()
    assert "broken" not in names
    assert "outside" in names
    assert reason in plugin_problems()["broken"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list_attentions()  # told once
    with pytest.raises(InputError, match=f"got attention 'broken' .*{reason}"):
        create_attention("broken", 4)


class Unbuildable(AttentionModule):
    """Cannot be made with its defaults."""

    def __init__(self, channels: int, size: int = 0) -> None:
        super().__init__()
        raise ValueError("give me a size")


def test_a_package_that_cannot_be_built_is_left_out(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    bring(monkeypatch, ("unbuildable", f"{__name__}:Unbuildable"))
    with pytest.warns(RuntimeWarning, match="left out: ValueError: give me a size"):
        assert "unbuildable" not in list_attentions()


OWN = """
from torch import Tensor, nn
from napari_attnseg.attention import AttentionModule, register_attention

@register_attention("my_gate", title="My gate", kinds=("spatial",), ndim=(2, 3))
class MyGate(AttentionModule):
    'One weight for all.'
    maps = ("gate",)
    def __init__(self, channels: int, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
    def forward(self, x: Tensor) -> Tensor:
        if self.probe is not None:
            self.probe.note("gate", x.mean(1).sigmoid())
        return x * self.factor
"""


def test_a_single_file_joins(monkeypatch: pytest.MonkeyPatch, fresh: None, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.py").write_text(OWN, encoding="utf-8")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import no_such_package_at_all", encoding="utf-8")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1", encoding="utf-8")
    clash = tmp_path / "clash.py"
    clash.write_text(OWN.replace("my_gate", "se"), encoding="utf-8")
    missing = tmp_path / "missing.py"
    words = (tmp_path / "folder", wrong, empty, clash, missing)
    monkeypatch.setenv(VARIABLE, os.pathsep.join(map(str, words)))
    with pytest.warns(RuntimeWarning) as told:
        names = list_attentions()
    assert len(told) == 4
    assert names[-1] == "my_gate"
    assert create_attention("my_gate", 4, factor=3.0)(torch.ones(1, 4, 2, 2)).sum() == 48
    (argument,) = attention_info("my_gate")["arguments"]
    assert (argument["name"], argument["type"], argument["default"]) == ("factor", "float", 2.0)
    with pytest.raises(InputError, match="got factor='3' for attention 'my_gate', expected float"):
        create_attention("my_gate", 4, factor="3")
    assert attention_class("se").__name__ == "SqueezeExcitation"
    problems = plugin_problems()
    for path, reason in (
        (wrong, "ModuleNotFoundError"),
        (empty, "registers no attention"),
        (clash, "second attention called 'se'"),
        (missing, "there is no file"),
    ):
        assert reason in problems[str(path)]
    first = fingerprint()
    os.utime(wrong, ns=(1, 1))
    assert fingerprint() != first  # kept descriptions are made again


def test_a_package_cannot_take_a_name_that_is_given(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    bring(monkeypatch, ("smooth", f"{__name__}:Outside"))
    with pytest.warns(RuntimeWarning, match="'smooth'.*taken"):
        list_attentions()
    assert attention_class("smooth") is SmoothAttention
    assert "taken" in plugin_problems()["smooth"]


def test_a_name_and_a_number_are_given_once(fresh: None) -> None:
    register_attention("outside")(Outside)
    register_attention("outside")(Outside)  # the same class again is no clash
    with pytest.raises(ValueError, match="second attention called 'outside'"):
        register_attention("outside")(SmoothAttention)
    with pytest.raises(ValueError, match="got id A36 for 'other', it is 'smooth' already"):
        register_attention("other", id="A36")(Outside)
    with pytest.raises(ValueError, match="second attention called 'additive'"):
        register_attention("other", aliases=("additive",))(Outside)
    with pytest.raises(ValueError, match=r"got kinds \['heat'\]"):
        register_attention("other", kinds=("heat",))


@pytest.mark.parametrize("name", list_attentions())
def test_all_is_told_as_plain_data(name: str) -> None:
    told = attention_info(name)
    assert json.loads(json.dumps(told)) == told
    assert told["title"]
    assert told["paper"]
    assert told["doc"]["summary"]
    assert told["kinds"]
    assert told["places"]
    made = sample_attention(name)
    assert list(made.places) == told["places"]
    assert made.bypassable == told["bypassable"]
    for argument in told["arguments"]:
        if argument["choices"]:
            assert argument["default"] in argument["choices"]
            for value in argument["choices"]:
                sample_attention(name, **{argument["name"]: value})


def test_a_docstring_is_read_in_sections(fresh: None) -> None:
    register_attention("outside", title="Outside", paper="none", kinds=("spatial",))(Outside)
    told = attention_info("outside")
    assert told["doc"] == {
        "summary": "Doubles everything.",
        "formula": "y = factor * x",
        "symbols": "x: features (B, C, H, W)",
        "cost": "",
        "notes": "",
    }
    first, second = told["arguments"]
    assert first == {
        "name": "factor",
        "type": "float",
        "default": 2.0,
        "choices": [],
        "doc": "what all features are multiplied by",
    }
    assert (second["doc"], second["choices"]) == ("which way", ["up", "down"])
    assert set(items(sections(Outside)["args"])) == {"factor", "mode"}
    with pytest.raises(InputError, match="got mode='left', expected one of 'up', 'down'"):
        create_attention("outside", 4, mode="left")
