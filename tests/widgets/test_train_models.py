"""Model choice, model card and the check on one image in the Train dock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.messages import EpochDone, Finished
from napari_attnseg.engine.describe import describe, weigh
from napari_attnseg.settings import RECIPES
from napari_attnseg.viewer.preferences import remember
from napari_attnseg.widgets._train_form import SettingsForm
from napari_attnseg.widgets._train_model import where
from napari_attnseg.widgets._train_words import closing_words
from napari_attnseg.widgets.train import TrainWidget

pytestmark = pytest.mark.gui
WAIT = 120_000


@pytest.fixture(scope="module")
def models() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = describe()["models"]
    return found


@pytest.fixture
def form(qtbot: Any, models: list[dict[str, Any]]) -> SettingsForm:
    made = SettingsForm()
    qtbot.addWidget(made)
    made.model.describe(models)
    made.refresh()
    return made


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_shown_whole_and_given_back(form: SettingsForm, name: str) -> None:
    form.set_recipe(name)
    assert form.settings == RECIPES[name]
    assert form.changes == ()
    assert form.model.combo.currentData() == RECIPES[name].model


def test_the_recipe_s_own_model_comes_back_with_its_options(form: SettingsForm) -> None:
    name = next(n for n in sorted(RECIPES) if RECIPES[n].options)
    form.set_recipe(name)
    combo = form.model.combo
    for model in ("fcn8s", RECIPES[name].model):
        combo.activated.emit(combo.findData(model))
    assert form.settings == RECIPES[name]
    assert form.changes == ()


def test_options_are_explained_one_by_one(form: SettingsForm) -> None:
    form.set_model("dense_unet")
    tips = {name: editor.widget.toolTip() for name, editor in form.model.editors.items()}
    assert tips["dropout"] == "Dropout before the classes"
    assert tips["plan"].startswith("Plan 161, 121 or narrow")
    assert not any("`" in tip or not tip for tip in tips.values())
    assert form.recipe.toolTip()


def test_every_described_model_can_be_chosen_with_its_own_options(
    form: SettingsForm, models: list[dict[str, Any]]
) -> None:
    offered = [m for m in models if not m["needs_coarse"]]
    assert form.model.combo.count() == len(offered) == len(models) - 1
    assert form.model.combo.findData("refined") == -1  # it refines a model that is trained already
    for model in offered:
        i = form.model.combo.findData(model["name"])
        form.model.combo.setCurrentIndex(i)
        form.model.combo.activated.emit(i)
        settings = form.settings
        assert (settings.model, dict(settings.options)) in (
            (model["name"], {}),
            ("smooth_unet", {"width": 0.5, "stride": 8}),  # the recipe's own, shown at first
        )
        known = {a["name"] for a in model["arguments"]} - {"rule", "threshold"}
        assert set(form.model.editors) == known
        assert settings.epochs == RECIPES["threshold-matters"].epochs


def test_an_option_reaches_the_settings_and_is_named_as_changed(form: SettingsForm) -> None:
    form.set_model("dense_unet")
    editor = form.model.editors["structure"]
    editor.widget.setCurrentIndex(6)  # type: ignore[union-attr]
    assert form.settings.options == {"structure": 7}
    assert form.changes == ("Model", "Structure")
    levels = form.model.editors["levels"].widget
    levels.setText("34")  # type: ignore[union-attr]
    levels.editingFinished.emit()  # type: ignore[union-attr]
    assert form.settings.options == {"structure": 7, "levels": "34"}
    form.reset.click()
    assert form.settings == RECIPES["threshold-matters"]


def test_values_that_mean_nothing_to_a_model_are_out_of_sight(form: SettingsForm) -> None:
    assert not form.editors["threshold"].widget.isHidden()
    assert form.editors["momentum"].widget.isHidden()
    form.set_recipe("pam-unet")
    assert form.editors["threshold"].widget.isHidden()
    assert not form.editors["momentum"].widget.isHidden()


def test_weights_of_the_encoder_are_chosen(form: SettingsForm) -> None:
    form.set_model("unet", encoder="resnet18")
    form.model.show_figures(weigh("unet", {"encoder": "resnet18"}, 1, 1, (64, 64)), 64)
    assert not form.model.start_field.isHidden()
    form.model.start.setCurrentIndex(1)
    form.model.start.activated.emit(1)
    assert form.settings.encoder_weights == "imagenet"
    form.model.show_figures(weigh("fcn8s", {"width": 0.1}, 1, 1, (64, 64)), 64)
    assert form.model.start_field.isHidden()


def test_the_card_says_cost_places_and_paper(form: SettingsForm) -> None:
    form.set_model("pam_unet", plan="tiny")
    found = weigh("pam_unet", {"plan": "tiny"}, 1, 1, (128, 128))
    form.model.show_figures(found, 128)
    words = form.model.about.text()
    assert f"{found['parameters'] / 1e3:.0f} k" in words
    assert f"{found['macs'] / 1e9:.2f}" in words
    assert "1/2, 1/4, 1/8, 1/16" in words
    assert "Shifting Attention" in words
    assert where([]) == "No attention."
    form.model.show_problem("got gate 'x'")
    assert "got gate" in form.model.about.text()


# --- the dock -------------------------------------------------------------------------------------


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TrainWidget]:
    """The real engine, in this process: its starting is tested elsewhere."""
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: InProcessClient())
    remember("train_folder", str(tmp_path / "models"))
    remember("train_name", "blobs")
    remember("train_classes", ["background", "blob"])
    widget = TrainWidget(make_napari_viewer())
    yield widget
    widget.hub.close()
    widget.deleteLater()


def paint(dock: TrainWidget) -> np.ndarray:
    """A bright square on dark noise, with strokes on both."""
    image = np.random.default_rng(0).normal(30, 5, (48, 48))
    image[14:34, 14:34] += 150
    dock.hub.viewer.add_image(image.astype(np.uint8), name="square")
    layer = dock.layers.new_strokes()
    assert layer is not None
    layer.data[16:32:2, 16:32] = 2
    layer.data[2:10:2, 2:46] = 1
    dock.layers.recount()
    return image


def test_one_image_is_learnt_by_heart_and_nothing_is_kept(dock: TrainWidget) -> None:
    paint(dock)
    dock.form.set_value("options.width", 0.1)
    dock.form.set_value("crop", 32)
    assert "48 x 48, values about" in dock.layers.advice.text()
    assert "uint8" in dock.layers.advice.text()
    assert dock.overfit.button.isEnabled()
    busy: list[bool] = []
    dock.training.busy_changed.connect(busy.append)
    dock.overfit.button.click()
    assert busy == [True, False]
    assert dock.errors.message == ""
    assert dock.status.text() == dock.overfit.verdict != ""
    assert not dock.use.isVisible()
    assert not list(dock.out.folder.glob("*.safetensors"))


def test_a_weighed_choice_appears_and_an_older_answer_does_not(
    dock: TrainWidget, qtbot: Any, models: list[dict[str, Any]]
) -> None:
    dock.form.model.describe(models)
    dock.facts._awake = True
    dock.facts._weigh()
    dock.form.set_model("pam_unet", plan="tiny")
    about = dock.form.model.about
    qtbot.waitUntil(lambda: "49 k" not in about.text() and "GMACs" in about.text(), timeout=WAIT)
    found = weigh("pam_unet", {"plan": "tiny"}, 1, 1, (128, 128))
    assert f"{found['parameters'] / 1e3:.0f} k" in about.text()


def test_the_word_about_the_model_in_use_does_not_go_stale(
    dock: TrainWidget, tiny_checkpoint: Path
) -> None:
    dock.checkpoint = tiny_checkpoint
    dock.use_model()
    assert "is now the model" in dock.status.text()
    dock.hub.set_model(next(m for m in dock.hub.models if m != str(tiny_checkpoint)))
    assert dock.status.text() == ""


def test_curves_and_closing_words_name_what_was_measured(dock: TrainWidget, tmp_path: Path) -> None:
    learnt = EpochDone(1, 1, 2, 0.5, 0.4, {"dice": 0.7, "iou": 0.6}, measured_on="training pixels")
    dock.curves.add(learnt)
    assert dock.curves.scores.getAxis("left").labelText == "training pixels"
    assert "training pixels" in dock.curves.scores.toolTip()
    path = tmp_path / "m.safetensors"
    path.touch()
    summary = {"epochs": 2, "best_epoch": 1, "best_dice": 0.7}
    kept_back = closing_words(Finished(1, "done", {}, summary), path)
    assert "(validation part)" in kept_back
    summary["measured_on"] = "training pixels"  # type: ignore[assignment]
    assert "none was kept back" in closing_words(Finished(1, "done", {}, summary), path)


def test_models_are_listed_though_image_and_labels_were_there_first(
    make_napari_viewer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    """What there is to learn from warms the training lane; the dock must ask for models all the
    same, in a window that is really shown."""
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: InProcessClient())
    monkeypatch.setattr("napari_attnseg.widgets._train_facts.read_description", lambda: None)
    viewer = make_napari_viewer(show=True)
    image = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint8)
    viewer.add_image(image, name="cells")
    viewer.add_labels((image > 128).astype(np.int32), name="truth")
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    assert widget.layers.ready
    assert widget.form.model.combo.findData("placed_unet") < 0
    combo = widget.form.model.combo
    try:
        qtbot.waitUntil(lambda: combo.findData("placed_unet") >= 0, timeout=90_000)
        assert combo.count() > 5
    finally:
        widget.hub.close()
