"""Bad input in the Train dock: said before training, nothing lost, and the dock goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import EpochDone
from napari_attnseg.viewer.preferences import remember
from napari_attnseg.viewer.strokes import class_color
from napari_attnseg.widgets.train import FOLDERS, TrainWidget

pytestmark = pytest.mark.gui
RNG = np.random.default_rng(4)


@pytest.fixture
def dock(make_napari_viewer: Callable[..., Any], tmp_path: Path) -> Iterator[TrainWidget]:
    remember("train_folder", str(tmp_path / "models"))
    remember("train_name", "m")
    remember("train_classes", ["background", "cell"])
    viewer = make_napari_viewer()
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    yield widget
    widget.hub.close()


def over(dock: TrainWidget, labels: np.ndarray) -> None:
    """An image with a complete mask over it, chosen in the dock."""
    dock.hub.viewer.add_image(RNG.random(labels.shape), name="im")
    layer = dock.hub.viewer.add_labels(labels)
    dock.layers.labels.choose(layer)
    dock.layers.recount()


@pytest.mark.parametrize(("value", "says"), [(0, "only background"), (1, "no background")])
def test_a_mask_of_one_class_only(dock: TrainWidget, value: int, says: str) -> None:
    over(dock, np.full((20, 30), value, np.uint8))
    assert not dock.layers.sparse
    assert not dock.run.isEnabled()
    dock.start()  # as by the shortcut
    assert not dock.training.busy
    assert dock.errors.message.lower().startswith(says)


def test_a_mask_with_a_class_nobody_named(dock: TrainWidget) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[3:9, 3:9], labels[12:, 12:] = 1, 7
    dock.classes.set_names(("background", "cell", "wall"))
    over(dock, labels)
    assert not dock.run.isEnabled()
    assert "144 pixels have a label above 2" in dock.layers.advice.text()


def test_strokes_that_are_all_unlabelled(dock: TrainWidget) -> None:
    dock.hub.viewer.add_image(RNG.random((20, 30)))
    dock.layers.new_strokes()
    dock.layers.recount()
    assert not dock.run.isEnabled()
    dock.start()
    assert dock.errors.message
    assert not dock.training.busy
    assert not dock.hub.viewer.layers[0].name.endswith("preview")


@pytest.mark.parametrize(
    ("size", "named", "says"),
    [((9, 8), "a_mask.png", "9 x 8"), ((12, 10), "other.png", "none of 1 images and 1 masks pair")],
)
def test_folders_that_do_not_fit(
    dock: TrainWidget, tmp_path: Path, qtbot: Any, size: tuple[int, int], named: str, says: str
) -> None:
    images, masks = tmp_path / "i", tmp_path / "m"
    images.mkdir()
    masks.mkdir()
    Image.fromarray(RNG.integers(0, 255, (12, 10), np.uint8)).save(images / "a.png")
    Image.fromarray(np.eye(*size, dtype=np.uint8)).save(masks / named)
    dock.tabs.setCurrentIndex(FOLDERS)
    with qtbot.waitSignal(dock.folders.checked, check_params_cb=lambda found: found is not None):
        dock.folders.set_folders(images, masks)
    assert "✗" in dock.folders.summary.text()
    assert says in dock.folders.summary.text().lower().replace("×", "x")
    assert not dock.run.isEnabled()
    dock.start()
    assert dock.errors.message
    assert not dock.training.busy


def test_a_look_at_folders_that_fails_says_so(
    dock: TrainWidget, tmp_path: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(images: str, masks: str) -> None:
        raise PermissionError(13, "Permission denied", images)

    from napari_attnseg.widgets import _train_folders as module

    monkeypatch.setattr(module, "preflight_folders", refuse)
    dock.tabs.setCurrentIndex(FOLDERS)
    with qtbot.captureExceptions():
        dock.folders.set_folders(tmp_path, tmp_path)
        qtbot.waitUntil(lambda: "Permission denied" in dock.folders.summary.text(), timeout=30_000)
    assert not dock.run.isEnabled()


@pytest.mark.timeout(280)
def test_resume_after_the_last_epoch_keeps_the_model_and_says_so(
    dock: TrainWidget, qtbot: Any
) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[8:24, 8:24] = 1
    over(dock, labels)
    dock.form.set_value("options.width", 0.06)
    dock.form.set_value("crop", 32)
    dock.form.set_value("epochs", 1)
    with qtbot.waitSignal(dock.training.finished, timeout=120_000):
        dock.run.click()
    assert dock.checkpoint is not None
    card = read_card(dock.checkpoint)
    assert card.class_colors == (class_color(0), class_color(1))
    before = dock.checkpoint.read_bytes()
    epochs: list[EpochDone] = []
    dock.training.epoch_done.connect(epochs.append)
    with qtbot.waitSignal(dock.training.finished, timeout=120_000):
        dock.resume.click()
    assert not epochs
    assert dock.checkpoint.read_bytes() == before
    assert "more epochs" in dock.status.text()
    dock.form.set_value("epochs", 2)
    with qtbot.waitSignal(dock.training.finished, timeout=120_000):
        dock.resume.click()
    assert [e.epoch for e in epochs] == [2]


@pytest.mark.timeout(280)
def test_layers_removed_while_it_trains(dock: TrainWidget, qtbot: Any) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[8:24, 8:24] = 1
    over(dock, labels)
    dock.form.set_value("options.width", 0.06)
    dock.form.set_value("crop", 32)
    dock.form.set_value("epochs", 400)
    epochs: list[EpochDone] = []
    dock.training.epoch_done.connect(epochs.append)
    dock.run.click()
    qtbot.waitUntil(lambda: bool(epochs), timeout=120_000)
    dock.hub.viewer.layers.clear()
    before = len(epochs)
    with qtbot.waitSignal(dock.training.preview, timeout=60_000):
        pass
    qtbot.waitUntil(lambda: len(epochs) > before, timeout=60_000)
    dock.run.click()
    qtbot.waitUntil(lambda: not dock.training.busy, timeout=20_000)
    assert dock.checkpoint is not None
    assert read_card(dock.checkpoint).class_names == ("background", "cell")
    assert "Stopped after" in dock.status.text()
