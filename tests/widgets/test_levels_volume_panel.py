"""Attention of a 3D model in the Tune dock: volumes over the window one looks at, a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.cards import Card
from napari_attnseg.settings import Preprocessing
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._compare import DIFFERENCE
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
SCAN = np.random.default_rng(5).random((9, 33, 41)).astype(np.float32)
WAIT = 90_000


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    import torch

    from napari_attnseg.models import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint

    torch.manual_seed(0)
    wish = {"attention": "skip[0]=attention_gate; bottleneck=nonlocal", "width": 0.07, "levels": 1}
    model = create_model("placed_unet", in_channels=1, ndim=3, **wish)
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(patch=(4, 12, 14), intensity="unit"),
        class_names=("background", "nuclei"),
        tuning=model.tuning(),
    )
    save_checkpoint(tmp_path / "whole.safetensors", model, card)
    return tmp_path / "whole.safetensors"


@pytest.fixture
def widget(make_napari_viewer: Any, qtbot: Any, checkpoint: Path) -> Iterator[Any]:
    viewer = make_napari_viewer()
    viewer.add_image(SCAN, name="scan", scale=(3, -1, 2), translate=(5, 6, 7))
    hub = hub_for(viewer)
    hub.set_model(str(checkpoint))
    made = TuneWidget(viewer)
    qtbot.addWidget(made)
    viewer.dims.set_current_step(0, 4)
    yield made
    hub.close()


def test_maps_rows_and_the_mask_before_a_level(widget: Any, qtbot: Any, checkpoint: Path) -> None:
    from napari_attnseg.engine.session import Session

    panel, hub, maps = widget.levels, widget.hub, widget.hub.levels
    slider = hub.viewer.dims.range[0]
    panel.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(maps.known), timeout=WAIT)
    session = Session(str(checkpoint), "cpu")
    session.set_image(SCAN, flips=(False, True, False))
    near = maps.near()
    assert session.seen(4, near).where in panel.words.text()
    expected = {(m.place, m.name): m for m in session.maps(4, near=near)}
    assert {(m.place, m.name) for m in maps.known} == set(expected)
    assert {m.level for m in expected.values()} == {"level_1", "level_2"}
    source = hub.source
    for key, found in expected.items():
        panel.boxes[key].click()
        qtbot.waitUntil(lambda key=key: maps.layer(key) is not None, timeout=WAIT)
        layer = maps.layer(key)
        assert layer.visible
        plane = np.unravel_index(int(found.values.argmax()), found.values.shape)[0]
        assert f"slice {round(found.depth[1] + found.depth[0] * plane)}" in panel.boxes[key].text()
        low, scale = (
            np.array([found.depth[i], *part])
            for i, part in ((1, found.scale.offset), (0, found.scale.scale))
        )
        for cell in ((0, 0, 0), (1, 2, 3)):
            here = layer.data_to_world(cell)
            np.testing.assert_allclose(here, source.data_to_world(low + scale * cell), atol=1e-6)
    assert hub.viewer.dims.range[0] == slider
    # a voxel far from the middle: another window answers
    panel.ask.click()
    qtbot.waitUntil(lambda: any(key[1] == "row" for key in maps.chosen), timeout=WAIT)
    hub.query.move(4, 2, 3)
    wanted = session.rows(4, 2, 3)[-1]
    key = (wanted.place, "row")
    qtbot.waitUntil(
        lambda: np.allclose(maps.layer(key).data, wanted.values, atol=1e-5), timeout=WAIT
    )
    layer = maps.layer(key)
    inside = np.round(layer.world_to_data(source.data_to_world((4, 2, 3)))).astype(int)
    assert ((inside >= 0) & (inside < layer.data.shape)).all()
    qtbot.waitUntil(lambda: session.seen(4, (2, 3)).where in panel.words.text(), timeout=WAIT)
    # before and after the attention of a level, in that window alone
    answers: list[Any] = []
    hub.live.retuned.connect(lambda event, *_: answers.append(event))
    panel.compare.set_mode(DIFFERENCE)
    qtbot.waitUntil(lambda: bool(answers), timeout=WAIT)
    assert answers[-1].window == session.seen(4, (2, 3)).where
    assert answers[-1].window in panel.compare.counts.text()


def test_kept_voxels_have_a_volume_each(widget: Any, qtbot: Any, checkpoint: Path) -> None:
    """In two windows: each lies about its own voxel."""
    from napari_attnseg.engine.session import Session

    panel, hub = widget.levels, widget.hub
    panel.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(hub.levels.known), timeout=WAIT)
    panel.ask.click()
    session = Session(str(checkpoint), "cpu")
    session.set_image(SCAN, flips=(False, True, False))
    kept, voxels = panel.query.kept, ((4, 2, 3), (4, 30, 38))
    for voxel in voxels:
        kept.keep(*voxel)
    for number, voxel in enumerate(voxels, 1):
        name = f"level 2 row {number}"
        qtbot.waitUntil(lambda name=name: hub.results.layer(name) is not None, timeout=WAIT)
        layer, wanted = hub.results.layer(name), session.rows(*voxel)[-1]
        np.testing.assert_allclose(layer.data, wanted.values, atol=1e-5)
        inside = np.round(layer.world_to_data(hub.source.data_to_world(voxel))).astype(int)
        assert ((inside >= 0) & (inside < layer.data.shape)).all()
    first, second = (hub.results.layer(f"level 2 row {n}") for n in (1, 2))
    assert not np.allclose(first.translate, second.translate)
