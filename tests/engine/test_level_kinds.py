"""Maps of any attention at any place come as pictures, stacks or figures that can be drawn."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from napari_attnseg.attention import attention_info, list_attentions
from napari_attnseg.engine import levels
from napari_attnseg.models import create_model

SPOTS = {
    "refiner": "skip[0]",
    "gate": "skip[0]",
    "conv": "encoder[0]",
    "fuser": "head",
    "class-aware": "head",
}
NAMES = [n for n in list_attentions() if 2 in attention_info(n)["ndim"]]
ONE = ("spatial", "signed", "row")


@pytest.mark.parametrize("name", NAMES)
def test_every_map_of_every_attention_can_be_drawn(name: str) -> None:
    torch.manual_seed(0)
    place = SPOTS[attention_info(name)["role"]]
    options = ":extent=4" if name == "gather_excite" else ""
    model = create_model(
        "placed_unet", attention=f"{place}={name}{options}", width=0.125, levels=2, in_channels=1
    ).eval()
    assert load(save(model.state_dict())).keys() == model.state_dict().keys()
    with torch.no_grad():
        found = levels.record(model, torch.randn(1, 1, 24, 16), {}, (0.3, 0.7))
    assert found
    told = attention_info(name)["maps"]
    for record in found:
        assert record.values.shape[0] == 1
        assert record.kind != "cross"  # the row of the asked position
        assert record.values.ndim == 3 if record.kind in ONE else record.values.ndim in (2, 3, 4)
        assert any(record.name.startswith(word) for word in told)
        assert levels.place_of(record.place, model.places) is not None
