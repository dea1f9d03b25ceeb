"""docs/models.md says what the models are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from napari_attnseg.models.base import create_model, list_models
from napari_attnseg.models.macs import count_macs

ROW = re.compile(r"^\| \*\*`(\w+)`\*\* \|  \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \| (.*) \|$", re.M)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_every_model_has_its_row_with_its_size_and_cost() -> None:
    if not DOCUMENT.is_file():
        pytest.skip("the documents are not here")
    rows = {name: rest for name, *rest in ROW.findall(DOCUMENT.read_text())}
    again = "write the table anew: python tools/model_table.py"
    assert sorted(rows) == list_models(ndim=2), again
    for name, (millions, gmacs, places) in rows.items():
        with torch.device("meta"):
            model = create_model(name, in_channels=3, classes=1)
        assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}" == millions, again
        assert f"{count_macs(model, (128, 128)) / 1e9:.2f}" == gmacs, again
        assert len(places.split(", ")) == max(1, len(model.places)), again
