"""What docks know of the engine without torch: models, their choices, places and cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from napari_attnseg.engine.describe import describe, unfilled, weigh
from napari_attnseg.models import create_model, list_models
from napari_attnseg.models.base import model_options


def test_every_model_is_described_as_plain_data() -> None:
    told = json.loads(json.dumps(describe()))
    models = {m["name"]: m for m in told["models"]}
    assert sorted(models) == list_models()
    for name, model in models.items():
        assert model["title"]
        assert model["paper"], name
        assert model["ndim"] == 2
        assert model["parameters"] > 100_000
        options = model_options(name)
        for option, choices in model["choices"].items():
            assert options[option] in choices, (name, option)
    assert len(models["dense_unet"]["places"]) == 4
    assert models["unet"]["places"] == []
    assert [n for n, m in models.items() if m["needs_coarse"]] == ["refined"]
    assert models["dense_unet"]["choices"]["structure"] == list(range(1, 10))


def test_each_choice_can_be_built() -> None:
    told = describe()
    with unfilled():
        for model in told["models"]:
            for option, choices in model["choices"].items():
                for value in choices:
                    # the default attention knows slices alone, and says so
                    flat = (model["name"], value) == ("placed_unet", 3)
                    also = {"attention": "bottleneck=se"} if flat else {}
                    create_model(model["name"], **{option: value, **also})


def test_afterwards_models_are_filled_again() -> None:
    with unfilled():
        create_model("unet", width=0.1)
    torch.manual_seed(0)
    first = create_model("unet", width=0.1).state_dict()
    torch.manual_seed(0)
    again = create_model("unet", width=0.1).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize(
    ("name", "options", "fit"),
    [
        ("pam_unet", {"plan": "figure"}, True),
        ("pam_unet", {"plan": "tiny"}, False),  # narrower by its plan, not by its width
        ("unet", {"encoder": "resnet18"}, True),
        ("unet", {"encoder": "resnet18", "width": 0.5}, False),
        ("unet", {}, False),
    ],
)
def test_weights_are_offered_where_they_fit(name: str, options: dict[str, Any], fit: bool) -> None:
    assert weigh(name, options, 3, 1, (32, 32))["weights"] is fit
