"""Until a person chooses a model, the one that suits the image is offered."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.viewer import hub as hubs
from napari_attnseg.viewer.hub import hub_for

pytestmark = pytest.mark.gui


def test_the_offered_model_suits_the_image(make_napari_viewer, monkeypatch) -> None:
    kept: dict[str, object] = {}
    monkeypatch.setattr(hubs, "recall", lambda name, default: kept.get(name, default))
    monkeypatch.setattr(hubs, "remember", kept.__setitem__)
    viewer = make_napari_viewer()
    hub = hub_for(viewer)
    picture = viewer.add_image(np.zeros((32, 32), np.uint8))
    assert hub.checkpoint == "nuclei_smooth_unet"
    volume = viewer.add_image(np.zeros((4, 32, 32), np.int16))
    hub.set_source(volume)
    assert hub.checkpoint == "ct_organs_smooth_unet"
    assert "model" not in kept, "an offer is not a choice"
    hub.set_model("nuclei_smooth_unet")
    hub.set_source(picture)
    hub.set_source(volume)
    assert hub.checkpoint == "nuclei_smooth_unet", "a choice stands"
    assert kept["model"] == "nuclei_smooth_unet"
    hub.close()
