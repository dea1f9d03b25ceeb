"""docs/models.md says what the models are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import torch

from napari_attnseg.models.base import SegmentationModel, create_model, list_models
from napari_attnseg.models.macs import count_macs

ROW = re.compile(r"^\| \*\*`(\w+)`\*\* \|  \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \| (.*) \|$", re.M)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@cache
def shaped(name: str) -> SegmentationModel:
    """The model by its defaults, without numbers."""
    with torch.device("meta"):
        return create_model(name, in_channels=3, classes=1)


def test_every_model_has_its_row_with_its_size_and_cost() -> None:
    rows = {name: rest for name, *rest in ROW.findall(DOCUMENT.read_text())}
    again = "write the table anew: python tools/model_table.py"
    assert sorted(rows) == list_models(ndim=2), again
    for name, (millions, gmacs, places) in rows.items():
        model = shaped(name)
        assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}" == millions, again
        assert f"{count_macs(model, (128, 128)) / 1e9:.2f}" == gmacs, again
        assert sum(map(maps, filter(None, places.split(", ")))) == len(model.places), again


def maps(grid: str) -> int:
    """Of one entry: "1/4" is one map, "3 x 1/4" are three."""
    times, _, _ = grid.rpartition(" x ")
    return int(times or 1)


def test_every_model_with_attention_has_its_card() -> None:
    text = DOCUMENT.read_text()
    for name in list_models(ndim=2):
        places = shaped(name).places
        assert (f"(`{name}`)\n" in text) == bool(places), name
        assert all(f"\n- {place.title}\n" in text for place in places), name
