"""What an export tells of its making, from a run in a viewer to the mask made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.engine.reproduce import reproduce
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.tidying import FILL_2D, KEEP_LARGEST, tidy
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.journal import apply
from napari_attnseg.viewer.layers import layer_volume
from napari_attnseg.viewer.making import making_of, with_source
from napari_attnseg.viewer.measure_layers import ids_of
from napari_attnseg.viewer.measure_steps import _Found, _put
from napari_attnseg.viewer.writer import export

pytestmark = pytest.mark.gui


def test_a_run_with_painting_is_made_again_but_for_the_paint(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skimage.data import coins

    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: InProcessClient())
    pixels = coins()[:96, :128]
    Image.fromarray(pixels).save(tmp_path / "coins.png")
    viewer = make_napari_viewer()
    viewer.add_image(pixels, name="coins")
    hub = hub_for(viewer)
    hub.set_model("nuclei_smooth_unet")
    hub.run()
    results = hub.results
    assert results is not None
    assert results.labels is not None
    before = results.labels.data.copy()
    assert before.any()
    results.labels.data_setitem((np.arange(5, 9), np.full(4, 7)), 1)
    inverse = before[40:50, 40:60] == 0

    def flip(labels: np.ndarray) -> np.ndarray:
        changed = labels.copy()
        changed[0, 40:50, 40:60] = inverse
        return changed

    assert apply(results, "flip", flip) == 200
    told = making_of(results)
    painted = int((results.labels.data != before).sum())
    assert told["hand_edited_pixels"] == told["edits"]["voxels"] == painted
    volume = layer_volume(results.source)
    told = with_source(told, volume, results.source)
    mask = tmp_path / "mask.png"
    export(mask, results.labels.data, volume, provenance=told)
    found = reproduce(mask, image=tmp_path / "coins.png")
    assert found.equal
    assert (found.edited, found.edited_different) == (painted, painted)
    results.labels.undo()
    results.labels.undo()
    assert "edits" not in making_of(results)
    hub.tune(threshold=0.9)
    assert making_of(results)["tuning_since"] == {"threshold": 0.9}
    assert comment_of(mask)["provenance"]["source"]["file"] is None
    hub.close()


def test_a_tidying_step_is_told_while_it_stands(
    make_napari_viewer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skimage.data import coins

    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: InProcessClient())
    viewer = make_napari_viewer()
    viewer.add_image(coins()[:96, :128], name="coins")
    hub = hub_for(viewer)
    hub.set_model("nuclei_smooth_unet")
    hub.run()
    results = hub.results
    assert results is not None
    labels = results.labels
    assert labels is not None
    labels.data_setitem((np.array([5, 5]), np.array([7, 8])), 1)

    def step(name: str) -> None:
        before = np.array(ids_of(labels))
        after = tidy(before, (name,))
        if name == FILL_2D:  # whatever is there: a step of some pixels
            after = before.copy()
            after[0, :3, :3] ^= 1
        _put(labels, results, name, _Found(before, after, np.nonzero(before != after)), None)

    def told() -> list[str]:
        return [one["step"] for one in making_of(results).get("edits", {}).get("steps", [])]

    step(FILL_2D)
    step(KEEP_LARGEST)
    assert told() == [FILL_2D, KEEP_LARGEST]
    labels.undo()
    assert told() == [FILL_2D]
    labels.redo()
    assert told() == [FILL_2D, KEEP_LARGEST]
    for _ in range(2):
        labels.undo()
    assert told() == []
    hub.close()
