"""The example of docs/add_an_attention.md, installed as a package and as a single file."""

from __future__ import annotations

import re
import sys
from copy import copy
from pathlib import Path

import pytest
import test_contracts as contracts
import torch

from napari_attnseg.attention import (
    attention_info,
    create_attention,
    list_attentions,
    plugin_problems,
    registry,
)
from napari_attnseg.attention.recording import recording
from napari_attnseg.models import create_model
from napari_attnseg.own_files import VARIABLE

DOC = Path(__file__).parents[2] / "docs" / "add_an_attention.md"
CODE, TOML = re.findall(r"```(?:python|toml)\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)


@pytest.fixture(params=["package", "file"])
def installed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example where the doc says; the registry forgets it afterwards."""
    for name in ("_REGISTRY", "_ALIASES", "_PROBLEMS", "_FILES"):
        monkeypatch.setattr(registry, name, copy(getattr(registry, name)))
    (tmp_path / "standout.py").write_text(CODE, encoding="utf-8")
    if request.param == "file":
        monkeypatch.setenv(VARIABLE, str(tmp_path / "standout.py"))
        return
    info = tmp_path / "standout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: standout\nVersion: 1.0\n")
    group, entry = TOML.splitlines()
    header = re.fullmatch(r'\[project\.entry-points\."(.*)"\]', group)
    assert header
    (info / "entry_points.txt").write_text(f"[{header[1]}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "standout", raising=False)


def test_the_example_is_in_the_list_and_told_about(installed: None) -> None:
    assert list_attentions()[-1] == "standout"
    assert plugin_problems() == {}
    told = attention_info("standout")
    assert told["doc"]["formula"].startswith("d = mean over channels")
    assert [(a["name"], a["doc"]) for a in told["arguments"]] == [
        ("start", "a of a fresh module"),
        ("distance", "how differences are measured"),
    ]


def test_the_example_keeps_the_contract(installed: None) -> None:
    for ndim in (2, 3):
        case = contracts.made("standout", ndim), ndim
        contracts.test_the_shape_is_kept(case)
        contracts.test_items_are_independent(case)
        contracts.test_every_parameter_learns_but_the_inert(case)
        contracts.test_weights_round_trip(case)
        contracts.test_recording_changes_nothing_and_costs_nothing_when_off(case)
        contracts.test_records_are_what_the_module_declares(case)
        contracts.test_it_is_let_through_as_far_as_asked(case)
        contracts.test_shapes_alone_are_enough(case)
    contracts.test_other_choices_keep_the_contract("standout", {"distance": "squared"})


def test_the_example_stands_in_a_network(installed: None) -> None:
    model = create_model(
        "placed_unet", in_channels=3, attention="skip[1:]=standout:start=2.0", width=0.125, levels=2
    ).eval()
    with torch.no_grad(), recording(model) as tape:
        model(torch.randn(1, 3, 32, 32))
    assert [r.name for r in tape.records] == ["gate"]
    assert create_attention("standout", 4, start=2.0).state_dict()["a"].item() == 2.0
