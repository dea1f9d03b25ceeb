"""Branches, regions and weights in the Tune dock: labels of the winner, one picture, a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_attnseg.cards import Card
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.questions import LevelMapFile
from napari_attnseg.engine.session import Session
from napari_attnseg.settings import Preprocessing
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._figures import FigureView, bar_words
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
IMAGE = np.random.default_rng(5).random((45, 61)).astype(np.float32)
WAIT = 90_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from napari_attnseg.models import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint

    torch.manual_seed(0)
    words = "skip[0]=se; skip[1]=coordinate; bottleneck=ema:bases=5; decoder[1]=branch"
    model = create_model("placed_unet", in_channels=1, width=0.125, levels=2, attention=words)
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(),
        class_names=("background", "nuclei"),
        tuning=model.tuning(),
    )
    path = tmp_path_factory.mktemp("kinds") / "placed.safetensors"
    save_checkpoint(path, model, card)
    return path


@pytest.fixture
def tune(
    make_napari_viewer: Any, qtbot: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TuneWidget]:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: InProcessClient())
    viewer = make_napari_viewer()
    viewer.add_image(IMAGE, name="cells", scale=(2, 3))
    hub = hub_for(viewer)
    hub.set_model(str(checkpoint))
    widget = TuneWidget(viewer)
    qtbot.addWidget(widget)
    widget.levels.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(widget.levels.boxes), timeout=WAIT)
    yield widget
    hub.close()


def expected(checkpoint: Path) -> dict[str, Any]:
    session = Session(str(checkpoint), "cpu")
    session.set_image(IMAGE)
    return {m.name: m for m in session.maps(0)}


@pytest.mark.parametrize("name", ["regions", "branches"])
def test_the_winner_is_a_labels_layer_and_one_picture_an_image(
    tune: TuneWidget, qtbot: Any, checkpoint: Path, name: str
) -> None:
    panel, maps, found = tune.levels, tune.hub.levels, expected(checkpoint)[name]
    key = (found.place, name)
    panel.boxes[key].click()
    qtbot.waitUntil(lambda: maps.layer(key) is not None, timeout=WAIT)
    winner = maps.layer(key)
    assert isinstance(winner, Labels)
    np.testing.assert_array_equal(winner.data, 1 + found.values.argmax(0))
    np.testing.assert_allclose(winner.scale, np.array(found.scale.scale) * (2, 3))
    np.testing.assert_allclose(winner.translate, np.array(found.scale.offset) * (2, 3))
    slider = panel.entries[key]
    assert slider.slider.maximum() == len(found.values) - 1
    slider.slider.setValue(2)
    qtbot.waitUntil(lambda: maps.layer(key) is not None, timeout=WAIT)
    single = maps.layer(key)
    assert isinstance(single, Image)
    assert (single.visible, winner.visible) == (True, False)
    np.testing.assert_allclose(single.data, found.values[2], atol=1e-5)
    panel.boxes[key].click()
    assert not single.visible


def test_a_slider_goes_from_the_mean_through_the_channels(
    tune: TuneWidget, qtbot: Any, checkpoint: Path
) -> None:
    panel, maps = tune.levels, tune.hub.levels
    (key,) = [k for k in panel.boxes if k[1] == "gate"]
    session = Session(str(checkpoint), "cpu")
    session.set_image(IMAGE)
    (found,) = [m for m in session.maps(0, stacks=(key,)) if (m.place, m.name) == key]
    assert key not in panel.entries or panel.entries[key].isHidden()  # not ticked: no clutter
    panel.boxes[key].click()
    qtbot.waitUntil(lambda: maps.layer(key) is not None, timeout=WAIT)
    layer, slider = maps.layer(key), panel.entries[key]
    np.testing.assert_allclose(layer.data, found.values.mean(0), atol=1e-5)
    assert slider.label.text() == f"mean of {len(found.values)}"
    slider.slider.setValue(2)
    qtbot.waitUntil(lambda: np.allclose(layer.data, found.values[2], atol=1e-5), timeout=WAIT)
    assert slider.label.text() == f"channel 3 of {len(found.values)}"
    asked = []
    maps.asker.ask = lambda *args, **more: asked.append(args)  # type: ignore[method-assign]
    slider.slider.setValue(4)  # at hand: nobody needs to be asked
    np.testing.assert_allclose(layer.data, found.values[4], atol=1e-5)
    slider.slider.setValue(-1)
    np.testing.assert_allclose(layer.data, found.values.mean(0), atol=1e-5)
    assert not asked
    assert maps.layer(key) is layer


def test_weights_of_channels_are_drawn_in_the_dock(
    tune: TuneWidget, qtbot: Any, checkpoint: Path
) -> None:
    panel = tune.levels
    (key,) = [k for k in panel.boxes if k[1] == "channels"]
    layers = len(tune.hub.viewer.layers)
    panel.boxes[key].click()
    qtbot.waitUntil(lambda: key in panel.figures, timeout=WAIT)
    np.testing.assert_allclose(
        panel.figures[key].values, expected(checkpoint)["channels"].values, atol=1e-6
    )
    assert len(tune.hub.viewer.layers) == layers
    panel.boxes[key].click()
    assert panel.figures[key].isHidden()


@pytest.mark.parametrize(
    ("kind", "shape", "told"),
    [
        ("kernel", (9,), "9 parts"),
        ("branch", (3, 7), "3 branches"),
        ("axes", (5, 11), "mean of 5 channels"),
        ("matrix", (6, 8), "6 x 8 channels"),
    ],
)
def test_every_figure_is_drawn_and_explained(
    qtbot: Any, kind: str, shape: tuple[int, ...], told: str
) -> None:
    view = FigureView()
    qtbot.addWidget(view)
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    view.show_figure(LevelMapFile(kind=kind), values)
    view.show_figure(LevelMapFile(kind=kind), -values)
    assert told in view.words.text()
    assert view.plot.getPlotItem().items


def test_the_strongest_are_named() -> None:
    heights = np.array([0.1, 0.9, 0.4, 0.5])
    words = bar_words("channel", heights, ("a", "b", "c", "d"))
    assert words == "4 channels, 0.1 to 0.9. Strongest: b, d, c."
