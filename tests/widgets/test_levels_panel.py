"""Attention of every level in the Tune dock: lists, layers and comparisons, with a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.cards import Card
from napari_attnseg.control.child import ChildClient
from napari_attnseg.settings import Preprocessing
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets._compare import DIFFERENCE, TUNED
from napari_attnseg.widgets.segment import SegmentWidget
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
IMAGE = np.random.default_rng(5).random((45, 61)).astype(np.float32)
WAIT = 90_000


class LentEngine(ChildClient):
    """One real engine process for all tests of this file; hubs may not end it."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def engine() -> Iterator[LentEngine]:
    client = LentEngine("live", to_main_thread)
    yield client
    client.end()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random models: Joint Attention, attention gates without rows, no attention."""
    import torch

    from napari_attnseg.models import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint

    torch.manual_seed(0)
    folder, made = tmp_path_factory.mktemp("levels"), {}
    kinds: dict[str, dict[str, Any]] = {
        "dense_unet": {"plan": "narrow", "levels": "34"},
        "attention_unet": {"width": 0.06, "levels": 2},
        "unet": {"width": 0.06, "levels": 2},
    }
    for name, options in kinds.items():
        model = create_model(name, in_channels=1, classes=1, **options)
        card = Card(
            spec=model.spec.to_json(),
            preprocessing=Preprocessing(),
            class_names=("background", "nuclei"),
            tuning=model.tuning(),
        )
        made[name] = folder / f"{name}.safetensors"
        save_checkpoint(made[name], model, card)
    return made


@pytest.fixture
def docked(
    make_napari_viewer: Any, qtbot: Any, engine: LentEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: engine)
    hubs = []

    def make(checkpoint: Path, dock: Any = TuneWidget) -> Any:
        viewer = make_napari_viewer()
        viewer.add_image(IMAGE, name="cells", scale=(2, 3))
        hub = hub_for(viewer)
        hubs.append(hub)
        hub.set_model(str(checkpoint))
        widget = dock(viewer)
        qtbot.addWidget(widget)
        return widget

    yield make
    for hub in hubs:
        hub.close()


def test_maps_of_the_levels_become_layers_on_their_own_grid(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path]
) -> None:
    from napari_attnseg.engine.session import Session

    widget = docked(checkpoints["dense_unet"])
    panel, maps = widget.levels, widget.hub.levels
    assert not panel.isHidden()
    assert panel.level.count() == 3  # two levels, and all of them
    panel.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(maps.known), timeout=WAIT)
    session = Session(str(checkpoints["dense_unet"]), "cpu")
    session.set_image(IMAGE)
    expected = session.maps(0)
    assert [(m.place, m.name, m.level) for m in maps.known] == [
        (m.place, m.name, m.level) for m in expected
    ]
    assert {m.level for m in expected} == {"level_3", "level_4"}
    assert len(panel.boxes) == len(expected)
    for found in expected[:2]:
        key = (found.place, found.name)
        panel.boxes[key].click()
        qtbot.waitUntil(lambda key=key: maps.layer(key) is not None, timeout=WAIT)
        layer = maps.layer(key)
        np.testing.assert_allclose(layer.data, found.values, atol=1e-5)
        np.testing.assert_allclose(layer.scale, np.array(found.scale.scale) * (2, 3))
        np.testing.assert_allclose(layer.translate, np.array(found.scale.offset) * (2, 3))
        low, high = layer.contrast_limits
        assert (low == -high) == (found.kind == "signed")
    layer.visible = True
    panel.boxes[key].click()
    assert not layer.visible


def test_an_asked_pixel_brings_the_row_of_the_coarsest_level(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path]
) -> None:
    widget = docked(checkpoints["dense_unet"], SegmentWidget)
    hub = widget.hub
    widget.after.ask.click()
    qtbot.waitUntil(lambda: bool(hub.levels.chosen), timeout=WAIT)
    (key,) = hub.levels.chosen
    found = next(m for m in hub.levels.known if (m.place, m.name) == key)
    assert (found.level, found.kind) == ("level_4", "row")
    layer = hub.levels.layer(key)
    assert layer.visible
    before = np.array(layer.data)
    hub.query.move(0, 2, 3)
    qtbot.waitUntil(lambda: not np.array_equal(before, layer.data), timeout=WAIT)
    widget.after.ask.click()
    assert not layer.visible
    widget.after.ask.click()  # on again
    qtbot.waitUntil(lambda: layer.visible and key in hub.levels.chosen, timeout=WAIT)


def test_another_model_is_asked_for_the_same_pixel(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    other = Path(shutil.copyfile(checkpoints["dense_unet"], tmp_path / "other.safetensors"))
    widget = docked(checkpoints["dense_unet"], SegmentWidget)
    hub = widget.hub
    widget.after.ask.click()
    qtbot.waitUntil(lambda: bool(hub.levels.chosen), timeout=WAIT)
    first = hub.levels.layer(next(iter(hub.levels.chosen)))
    hub.query.move(0, 3, 5)
    hub.set_model(str(other))
    assert not hub.levels.chosen
    assert not first.visible
    assert hub.query.on
    qtbot.waitUntil(lambda: bool(hub.levels.chosen), timeout=WAIT)
    assert hub.levels.at == (3, 5)
    second = hub.levels.layer(next(iter(hub.levels.chosen)))
    assert second is not first
    assert second.visible


def test_the_eye_of_a_layer_and_its_box_agree(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path]
) -> None:
    widget = docked(checkpoints["dense_unet"])
    panel, maps = widget.levels, widget.hub.levels
    panel.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(maps.known), timeout=WAIT)
    found = maps.known[0]
    key = (found.place, found.name)
    box = panel.boxes[key]
    low, high = maps.ranges[key]
    assert f"to {high:.2g}" in box.text()
    box.click()
    qtbot.waitUntil(lambda: maps.layer(key) is not None, timeout=WAIT)
    layer = maps.layer(key)
    assert (low, high) == (pytest.approx(layer.data.min()), pytest.approx(layer.data.max()))
    middle = 0.5 if found.kind == "signed" else 0.0
    assert layer.colormap.map(np.array([middle]))[0, 3] == 0  # the image is seen
    layer.visible = False
    assert not box.isChecked()
    layer.visible = True
    assert box.isChecked()
    box.click()
    assert not layer.visible


def test_before_and_after_a_level(docked: Any, qtbot: Any, checkpoints: dict[str, Path]) -> None:
    widget = docked(checkpoints["dense_unet"])
    hub, compare = widget.hub, widget.levels.compare
    assert widget.compare_section.isHidden()
    hub.tune(cut=0.12)
    compare.buttons[DIFFERENCE].click()
    qtbot.waitUntil(lambda: compare.counts.text() != "", timeout=WAIT)
    assert dict(hub.live.state.against) == {"level_3": 0.0}
    widget.levels.level.setCurrentIndex(2)
    widget.levels.level.activated.emit(2)
    assert dict(hub.live.state.against) == {"level_3": 0.0, "level_4": 0.0}
    hub.set_model(str(checkpoints["unet"]))
    assert compare.mode == TUNED
    assert not hub.live.state.compare
    assert widget.levels.isHidden()


@pytest.mark.parametrize(
    ("model", "words"), [("attention_unet", "one by one"), ("unet", "no attention")]
)
def test_models_without_rows_say_so(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path], model: str, words: str
) -> None:
    widget = docked(checkpoints[model], SegmentWidget)
    widget.after.ask.click()
    qtbot.waitUntil(lambda: words in widget.errors.message, timeout=WAIT)


def test_without_a_threshold_there_is_no_fingerprint(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path]
) -> None:
    widget = docked(checkpoints["unet"])
    for part in (widget.fingerprint, widget.compare_section, widget.levels):
        assert part.isHidden()
    assert list(widget.rows) == ["cut"]
    widget.analyse()
    qtbot.waitUntil(lambda: widget.hub.results.layer("labels") is not None, timeout=WAIT)
    assert widget.error.message == ""


def test_maps_follow_slices_and_values_and_stay_deleted(
    docked: Any, qtbot: Any, checkpoints: dict[str, Path]
) -> None:
    from napari_attnseg.engine.session import Session

    volume = np.random.default_rng(6).random((3, 41, 50)).astype(np.float32)
    widget = docked(checkpoints["dense_unet"])
    hub, maps = widget.hub, widget.hub.levels
    source = hub.viewer.add_image(volume, name="volume", scale=(-2, 1, -1))
    hub.set_source(source)
    widget.levels.fold.setChecked(True)
    qtbot.waitUntil(lambda: bool(maps.known), timeout=WAIT)
    session = Session(str(checkpoints["dense_unet"]), "cpu")
    session.set_image(volume, flips=(True, False, True))

    def expected(z: int, **values: float) -> np.ndarray:
        found = session.maps(z, session.tuning.replace(**values))
        return next(m.values for m in found if (m.place, m.name) == key)

    first = maps.known[0]
    key = (first.place, first.name)
    widget.levels.boxes[key].click()
    qtbot.waitUntil(lambda: maps.layer(key) is not None, timeout=WAIT)
    layer, z = maps.layer(key), hub.visible_z()
    np.testing.assert_allclose(layer.data[z], expected(z), atol=1e-5)
    other = 0 if z else 1
    assert not layer.data[other].any()
    hub.viewer.dims.set_point(0, float(source.data_to_world((other, 0, 0))[0]))
    qtbot.waitUntil(lambda: bool(layer.data[other].any()), timeout=WAIT)
    np.testing.assert_allclose(layer.data[other], expected(other), atol=1e-5)
    hub.tune(level_4=0.0)  # what lies below changes what reaches the finer level's decoder
    wanted = expected(other, level_4=0.0)
    qtbot.waitUntil(lambda: np.allclose(layer.data[other], wanted, atol=1e-5), timeout=WAIT)
    hub.viewer.layers.remove(layer)
    maps.look()
    qtbot.waitUntil(lambda: key not in maps.chosen, timeout=WAIT)
    assert maps.layer(key) is None
    assert not widget.levels.boxes[key].isChecked()
