"""The Train dock as a person uses it: strokes, folders, settings, a real training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import EpochDone
from napari_attnseg.settings import RECIPES
from napari_attnseg.viewer.preferences import remember
from napari_attnseg.widgets._train_words import free_path
from napari_attnseg.widgets.train import FOLDERS, TrainWidget

pytestmark = pytest.mark.gui


def blobs(seed: int = 0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on dark noise, and where they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for cy, cx in rng.integers(8, size - 8, (5, 2)):
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < 36
    noise = rng.normal(30, 6, (size, size))
    return np.clip(noise + 150 * mask, 0, 255).astype(np.uint8), mask


@pytest.fixture
def dock(make_napari_viewer: Callable[..., Any], tmp_path: Path) -> Iterator[TrainWidget]:
    remember("train_folder", str(tmp_path / "models"))
    remember("train_name", "blobs")
    remember("train_classes", ["background", "blob"])
    viewer = make_napari_viewer()
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    yield widget
    widget.hub.close()


def paint(dock: TrainWidget, mask: np.ndarray) -> Any:
    """Strokes: two rows of pixels of each class."""
    layer = dock.layers.new_strokes()
    assert layer is not None
    for value, where in ((2, mask), (1, ~mask)):
        for y, x in np.argwhere(where)[::23]:
            layer.paint((int(y), int(x)), value)
    dock.layers.recount()
    return layer


def small(dock: TrainWidget, epochs: int) -> None:
    """A training that takes seconds."""
    dock.form.set_value("options.width", 0.06)
    dock.form.set_value("crop", 32)
    dock.form.set_value("epochs", epochs)


# --- strokes --------------------------------------------------------------------------------------


def test_empty_dock_says_how_to_start(dock: TrainWidget) -> None:
    assert not dock.run.isEnabled()
    assert "Open Sample" in dock.layers.advice.text()
    assert dock.layers.new_strokes() is None
    assert "no image" in dock.errors.message


def test_new_strokes_layer_lies_on_the_image_with_the_brush_in_hand(dock: TrainWidget) -> None:
    viewer = dock.hub.viewer
    image = viewer.add_image(np.zeros((5, 7, 11)), scale=(-3, 2, 2), translate=(9, 1, 4))
    layer = dock.layers.new_strokes()
    assert layer is not None
    assert layer.data.shape == (5, 7, 11)
    assert layer.data.dtype == np.uint8
    np.testing.assert_array_equal(layer.scale, image.scale)
    np.testing.assert_array_equal(layer.translate, image.translate)
    assert (layer.mode, layer.selected_label) == ("paint", 2)
    assert viewer.layers.selection.active is layer
    assert dock.layers.sparse
    assert dock.layers.labels.layer is layer


def test_counts_follow_the_brush_and_say_what_is_missing(dock: TrainWidget, qtbot: Any) -> None:
    dock.hub.viewer.add_image(np.zeros((20, 30)))
    layer = dock.layers.new_strokes()
    assert layer is not None
    layer.brush_size = 1
    layer.paint((3, 4), 2)
    qtbot.waitUntil(lambda: dock.layers.count.counts == (0, 1), timeout=30_000)
    assert "no background" in dock.layers.advice.text().lower()
    assert not dock.run.isEnabled()
    layer.paint((9, 9), 1)
    qtbot.waitUntil(lambda: dock.layers.count.counts == (1, 1), timeout=30_000)
    assert dock.run.isEnabled()


def test_a_colour_picks_the_brush(dock: TrainWidget) -> None:
    dock.hub.viewer.add_image(np.zeros((20, 30)))
    layer = dock.layers.new_strokes()
    assert layer is not None
    dock.classes._rows[0].swatch.click()
    assert layer.selected_label == 1
    dock.classes.more.click()
    dock.classes._rows[2].swatch.click()
    assert layer.selected_label == 3
    assert dock.classes._rows[2].swatch.isChecked()
    assert not dock.classes._rows[0].swatch.isChecked()
    assert dock.settings.class_names == ("background", "blob", "class 2")
    assert dock.settings.sparse


def test_labels_of_another_size_are_refused(dock: TrainWidget) -> None:
    dock.hub.viewer.add_image(np.zeros((20, 30)))
    other = dock.hub.viewer.add_labels(np.ones((21, 30), np.uint8))
    dock.layers.labels.choose(other)
    assert "(21, 30)" in dock.layers.advice.text()
    assert not dock.run.isEnabled()


def test_removing_the_layers_leaves_a_working_dock(dock: TrainWidget) -> None:
    viewer = dock.hub.viewer
    viewer.add_image(np.zeros((20, 30)))
    dock.layers.new_strokes()
    viewer.layers.clear()
    assert not dock.run.isEnabled()
    assert dock.layers.count.counts == ()
    viewer.add_image(np.zeros((20, 30)))
    assert dock.layers.new_strokes() is not None


# --- settings -------------------------------------------------------------------------------------


def test_form_gives_every_recipe_unchanged(dock: TrainWidget) -> None:
    for name, recipe in RECIPES.items():
        dock.form.set_recipe(name)
        assert dock.form.settings == recipe
        assert dock.form.changes == ()


def test_form_says_what_was_changed_and_resets(dock: TrainWidget) -> None:
    dock.form.set_recipe("threshold-matters")
    dock.form.set_value("preprocessing.channels", 3)
    dock.form.set_value("options.width", 0.25)
    settings = dock.form.settings
    assert settings.options["width"] == 0.25
    assert settings.preprocessing.mean == (0.0,) * 3
    assert dock.form.changes == ("Network width", "Channels")
    dock.form.reset.click()
    assert dock.form.settings == RECIPES["threshold-matters"]


def test_an_existing_model_is_never_overwritten(tmp_path: Path) -> None:
    assert free_path(tmp_path, "a/b:c").name == "a_b_c.safetensors"
    (tmp_path / "m.safetensors").touch()
    (tmp_path / "m_2.safetensors").touch()
    assert free_path(tmp_path, "m.safetensors").name == "m_3.safetensors"


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for i in range(6):
        image, mask = blobs(i, 40)
        Image.fromarray(image).save(images / f"im{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(masks / f"im{i}_mask.png")
    Image.fromarray(image).save(images / "alone.png")
    return images, masks


def test_pairing_is_shown_before_training(
    dock: TrainWidget, folders: tuple[Path, Path], qtbot: Any
) -> None:
    dock.tabs.setCurrentIndex(FOLDERS)
    assert dock.form.recipe.currentText() == "threshold-matters"
    assert not dock.run.isEnabled()
    with qtbot.waitSignal(dock.folders.checked, check_params_cb=lambda found: found is not None):
        dock.folders.set_folders(*folders)
    assert "6 pairs" in dock.folders.summary.text()
    first = dock.folders.pairs.topLevelItem(0)
    assert first is not None
    assert "alone.png" in first.text(0)
    assert first.text(1) == "no mask"
    assert dock.run.isEnabled()
    dock.folders.set_folders(folders[0], folders[0].parent / "none")
    qtbot.waitUntil(lambda: "does not exist" in dock.folders.summary.text(), timeout=30_000)
    assert not dock.run.isEnabled()


def test_curves_take_back_what_a_resume_repeats(dock: TrainWidget) -> None:
    for epoch, dice in ((1, 0.2), (2, 0.5), (3, 0.4), (2, 0.6)):
        dock.curves.add(EpochDone(epoch=epoch, loss=1.0, validation={"dice": dice}, best=True))
    assert dock.curves.epochs == [1, 2]
    assert dock.curves.values["Dice"] == [0.2, 0.6]
    assert "0.600" in dock.curves.readout.text()


# --- real trainings -------------------------------------------------------------------------------


@pytest.mark.timeout(280)
def test_train_paint_on_stop_resume_and_use(dock: TrainWidget, qtbot: Any) -> None:
    image, mask = blobs()
    layer_of_image = dock.hub.viewer.add_image(image, name="discs")
    layer = paint(dock, mask)
    small(dock, 400)
    epochs: list[EpochDone] = []
    dock.training.epoch_done.connect(epochs.append)
    dock.run.click()
    assert "Stop" in dock.run.text()
    qtbot.waitUntil(lambda: len(epochs) >= 2, timeout=120_000)
    layer.paint((2, 2), 1)  # painting goes on
    qtbot.waitUntil(lambda: "discs_training_preview" in dock.hub.viewer.layers, timeout=30_000)
    preview = dock.hub.viewer.layers["discs_training_preview"]
    assert preview.data.shape == image.shape
    assert 0 < preview.data.max() <= 1
    assert dock.hub.viewer.layers.selection.active is layer
    dock.run.click()
    qtbot.waitUntil(lambda: not dock.training.busy, timeout=10_000)
    assert dock.errors.message == ""
    assert "Stopped after" in dock.status.text()
    assert dock.checkpoint is not None
    assert read_card(dock.checkpoint).class_names == ("background", "blob")
    assert str(dock.checkpoint) in dock.hub.models

    stopped_at = epochs[-1].epoch
    dock.resume.click()
    qtbot.waitUntil(lambda: epochs[-1].epoch > stopped_at, timeout=60_000)
    assert epochs[-1].epoch == stopped_at + 1
    dock.run.click()
    qtbot.waitUntil(lambda: not dock.training.busy, timeout=10_000)
    dock.use.click()
    assert dock.hub.checkpoint == str(dock.checkpoint)
    assert dock.hub.source is layer_of_image
    assert not preview.visible


@pytest.mark.timeout(280)
def test_train_from_folders_to_the_end(
    dock: TrainWidget, folders: tuple[Path, Path], qtbot: Any
) -> None:
    dock.tabs.setCurrentIndex(FOLDERS)
    with qtbot.waitSignal(dock.folders.checked, check_params_cb=lambda found: found is not None):
        dock.folders.set_folders(*folders)
    small(dock, 2)
    with qtbot.waitSignal(dock.training.finished, timeout=120_000):
        dock.run.click()
    assert dock.errors.message == ""
    assert dock.status.text().startswith("Finished all 2 epochs")
    assert dock.curves.epochs == [1, 2]
    layers = dock.hub.viewer.layers
    assert [x.name for x in layers] == ["validation_image", "validation_preview"]
    assert not any(x.visible for x in layers)  # they would lie over the person's image
    assert layers[0].data.shape == layers[1].data.shape == (40, 40)
    assert layers[0].data.max() > 100
    assert dock.checkpoint is not None
    assert read_card(dock.checkpoint).provenance["data"]["pairs"] == 6


@pytest.mark.timeout(280)
def test_killed_engine_leaves_a_sentence_and_a_dock_that_works(
    dock: TrainWidget, qtbot: Any
) -> None:
    import psutil

    image, mask = blobs()
    dock.hub.viewer.add_image(image, name="discs")
    paint(dock, mask)
    small(dock, 400)
    with qtbot.waitSignal(dock.training.epoch_done, timeout=120_000):
        dock.run.click()
    with qtbot.waitSignal(dock.training.engine_lost, timeout=10_000):
        psutil.Process(dock.training.client.pid).kill()
    assert "training engine stopped" in dock.errors.message
    assert "SIGKILL" in dock.errors.message
    assert not dock.training.busy
    with qtbot.waitSignal(dock.training.epoch_done, timeout=120_000):
        dock.run.click()
    assert dock.errors.message == ""
