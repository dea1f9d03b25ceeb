"""Several asked pixels: each keeps its number, its marker and its own picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image

from napari_attnseg.cards import Card, resolve_checkpoint
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.engine.session import Session
from napari_attnseg.settings import Preprocessing
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.kept_pixels import _tint
from napari_attnseg.viewer.level_maps import fit_colours
from napari_attnseg.widgets._after import AfterPanel
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
VOLUME = np.random.default_rng(5).random((3, 45, 61)).astype(np.float32)
WAIT = 90_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from napari_attnseg.models import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint

    torch.manual_seed(0)
    words = "bottleneck=vit:heads=2; skip[1]=vit:heads=2"
    model = create_model("placed_unet", in_channels=1, width=0.125, levels=2, attention=words)
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(),
        class_names=("background", "nuclei"),
        tuning=model.tuning(),
    )
    path = tmp_path_factory.mktemp("kept") / "vit.safetensors"
    save_checkpoint(path, model, card)
    return path


@pytest.fixture(params=[2, 3])
def tune(
    make_napari_viewer: Any,
    qtbot: Any,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[TuneWidget]:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: InProcessClient())
    viewer = make_napari_viewer()
    data = VOLUME if request.param == 3 else VOLUME[1]
    viewer.add_image(data, name="cells", scale=(4, 2, 3)[-request.param :])
    viewer.dims.set_point(0, 4.0) if request.param == 3 else None
    hub = hub_for(viewer)
    hub.set_model(str(checkpoint))
    widget = TuneWidget(viewer)
    qtbot.addWidget(widget)
    widget.levels.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(widget.levels.boxes), timeout=WAIT)
    yield widget
    hub.close()


def expected(checkpoint: Path, data: Any, z: int, y: int, x: int) -> np.ndarray:
    """The row of the coarsest place."""
    session = Session(str(checkpoint), "cpu")
    session.set_image(data)
    return session.rows(z, y, x)[-1].values


def pictures(hub: Any) -> dict[int, Any]:
    return {
        int(layer.name.rpartition(" ")[2]): layer
        for layer in hub.viewer.layers
        if " row " in layer.name
    }


def click(hub: Any, where: tuple[float, ...], *modifiers: str) -> None:
    """A click on the image as napari tells it."""
    event = SimpleNamespace(type="mouse_press", button=1, position=where, modifiers=modifiers)
    (callback,) = (c for c in hub.viewer.mouse_drag_callbacks if c == hub.query._on_click)
    for _ in callback(hub.viewer, event):
        pass


def test_each_kept_pixel_has_its_marker_and_its_own_row(
    tune: TuneWidget, qtbot: Any, checkpoint: Path
) -> None:
    hub, panel = tune.hub, tune.levels
    data = np.asarray(hub.source.data)
    z, front = (1, (4.0,)) if data.ndim == 3 else (0, ())
    assert panel.keep.isHidden()
    assert panel.clear.isHidden()
    panel.ask.click()
    kept = hub.query.kept
    click(hub, (*front, 2 * 3.0, 3 * 50.0), "Shift")
    click(hub, (*front, 2 * 40.0, 3 * 7.0), "Shift")
    click(hub, (*front, 2 * 40.0, 3 * 7.0), "Shift")  # the same again
    assert kept.pixels == {1: (z, 3, 50), 2: (z, 40, 7)}
    qtbot.waitUntil(lambda: set(pictures(hub)) == {1, 2}, timeout=WAIT)
    for number, (_, y, x) in kept.pixels.items():
        layer = pictures(hub)[number]
        seen = layer.data[z] if layer.ndim == 3 else layer.data
        np.testing.assert_allclose(seen, expected(checkpoint, data, z, y, x), atol=1e-6)
        assert layer.visible
        others = [s for s in range(len(layer.data)) if layer.ndim == 3 and s != z]
        assert not layer.data[others].any() if others else True
    np.testing.assert_array_equal(kept.points.data[:, -2:], [[3, 50], [40, 7]])
    assert list(kept.points.features["number"]) == [1, 2]
    assert [str(t) for t in kept.points.text.values] == ["1", "2"]
    assert panel.clear.text() == "Clear 2 kept"
    click(hub, (*front, 2 * 20.0, 3 * 30.0))  # without Shift the ring moves, nothing is kept
    assert len(kept.pixels) == 2
    panel.keep.click()
    assert kept.pixels[3] == (z, 20, 30)
    qtbot.waitUntil(lambda: 3 in pictures(hub), timeout=WAIT)
    panel.clear.click()
    assert not pictures(hub)
    assert kept.points is None
    assert panel.clear.isHidden()


def test_a_deleted_marker_takes_its_picture_along_and_values_move_the_rest(
    tune: TuneWidget, qtbot: Any
) -> None:
    hub = tune.hub
    tune.levels.ask.click()
    kept, z = hub.query.kept, hub.visible_z()
    for y, x in ((3, 50), (40, 7), (20, 30)):
        kept.keep(z, y, x)
    qtbot.waitUntil(lambda: set(pictures(hub)) == {1, 2, 3}, timeout=WAIT)
    kept.points.selected_data = {0}
    kept.points.remove_selected()
    assert set(kept.pixels) == {2, 3}
    assert set(pictures(hub)) == {2, 3}
    before = pictures(hub)[2].data.copy()
    hub.tune(level_1=0.1)  # the finer level, from which the coarser ones do not come
    kept.refresh()
    hub.viewer.layers.remove(kept.points)
    assert kept.pixels == {}
    assert not pictures(hub)
    assert before.any()


def test_pixels_of_a_smooth_unet_are_kept_from_the_segment_dock(
    make_napari_viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: InProcessClient())
    viewer = make_napari_viewer()
    viewer.add_image(VOLUME[1], name="cells")
    hub = hub_for(viewer)
    hub.set_model("nuclei_smooth_unet")
    panel = AfterPanel(hub, pytest.fail)
    qtbot.addWidget(panel)
    assert panel.kept.isHidden()
    panel.ask.click()
    click(hub, (3.0, 50.0), "Shift")
    qtbot.waitUntil(lambda: set(pictures(hub)) == {1}, timeout=WAIT)
    session = Session(str(resolve_checkpoint("nuclei_smooth_unet")), "cpu")
    session.set_image(VOLUME[1])
    (row,) = session.rows(0, 3, 50)
    np.testing.assert_allclose(pictures(hub)[1].data, row.values, atol=1e-6)
    assert panel.kept.clear.text() == "Clear 1 kept"
    panel.kept.clear.click()
    assert not pictures(hub)
    panel.ask.click()
    assert panel.kept.isHidden()
    hub.close()


def test_what_is_below_zero_has_the_opposite_colour() -> None:
    layer = Image(np.zeros((2, 2), np.float32))
    _tint(layer, "#ff9f1c", True)
    fit_colours(layer, np.array([[-2.0, 1.0]]), True)
    assert tuple(layer.contrast_limits) == (-2, 2)
    below, nothing, above = layer.colormap.map([0.0, 0.5, 1.0])
    np.testing.assert_allclose(above, [1, 0x9F / 255, 0x1C / 255, 1], atol=1e-3)
    np.testing.assert_allclose(below[:3], 1 - above[:3], atol=1e-3)
    assert below[3] == 1
    assert nothing[3] < 0.05
