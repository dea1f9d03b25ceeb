"""The Train dock's form for models of volumes: patch, attention over three axes, costs."""

from __future__ import annotations

from typing import Any

import pytest

from napari_attnseg.engine.describe import WINDOW, describe, weigh
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.macs import count_macs
from napari_attnseg.settings import with_patch
from napari_attnseg.widgets._train_form import SettingsForm
from napari_attnseg.widgets._train_items import numbers_of

pytestmark = pytest.mark.gui


@pytest.fixture
def form(qtbot: Any) -> SettingsForm:
    told = describe()
    made = SettingsForm("threshold-matters")
    qtbot.addWidget(made)
    made.model.describe(told["models"], told["attentions"])
    return made


def typed(form: SettingsForm, words: str) -> None:
    field = form.editors["preprocessing.patch"].widget
    field.setText(words)  # type: ignore[union-attr]
    field.editingFinished.emit()  # type: ignore[union-attr]


def shown(form: SettingsForm, path: str) -> bool:
    return not form.editors[path].widget.isHidden()


def test_an_attention_of_slices_that_nobody_chose_gives_way(form: SettingsForm) -> None:
    form.set_model("placed_unet")
    first = form.model.editors["attention"].value
    form.model.editors["ndim"].widget.setCurrentIndex(1)
    chosen = form.settings.options["attention"]
    assert chosen == form.model.editors["attention"].value == "bottleneck=nonlocal"
    create_model("placed_unet", in_channels=1, classes=1, width=0.1, levels=2, ndim=3,
                 attention=chosen)  # fmt: skip
    form.model.editors["ndim"].widget.setCurrentIndex(0)
    assert form.model.editors["attention"].value == first
    form.set_model("placed_unet", attention="skip=cbam")
    form.model.editors["ndim"].widget.setCurrentIndex(1)
    assert form.settings.options["attention"] == "skip=cbam"


def test_a_patch_is_asked_for_where_a_model_is_of_volumes(form: SettingsForm) -> None:
    form.set_model("placed_unet", attention="bottleneck=se")
    assert not shown(form, "preprocessing.patch")
    assert shown(form, "crop")
    two = set(form.model.attentions)
    choose = form.model.editors["ndim"].widget
    assert choose.itemText(1) == "volumes (3D)"
    choose.setCurrentIndex(1)  # the person's way: the editors are made anew meanwhile
    assert form.settings.options["ndim"] == 3
    assert shown(form, "preprocessing.patch")
    assert not shown(form, "crop")
    assert not shown(form, "preprocessing.size")
    three = set(form.model.attentions)
    assert "temporal" in three - two
    assert "smooth" in two - three
    assert form.settings.preprocessing.patch is None
    form.editors["preprocessing.size"].show(96)
    typed(form, "12, 40 x 48")
    assert form.settings.preprocessing.patch == (12, 40, 48)
    assert form.settings.preprocessing.size is None
    assert "Patch" in form.changes
    with_patch(form.settings)
    form.set_value("options.ndim", 2)
    assert form.settings.preprocessing.patch is None
    assert form.settings.preprocessing.size == 96
    assert "smooth" in form.model.attentions
    with_patch(form.settings)


def test_what_is_no_number_is_left_for_the_settings_to_refuse(form: SettingsForm) -> None:
    assert numbers_of("24, 32,32") == numbers_of("(24 x 32 x 32)") == (24, 32, 32)
    assert numbers_of("  ") is None
    assert numbers_of("12, a") == (12, "a")
    form.set_model("unet", ndim=3)
    typed(form, "12, a")
    with pytest.raises(InputError, match=r"patch=\[12, 'a'\]"):
        with_patch(form.settings)


def test_a_3d_model_is_weighed_for_a_window() -> None:
    options = {"ndim": 3, "attention": "bottleneck=se", "width": 0.125, "levels": 2}
    found = weigh("placed_unet", options, 1, 1, (64, 64))
    model = create_model("placed_unet", in_channels=1, **options)
    assert tuple(found["size"]) == WINDOW
    assert found["macs"] == count_macs(model, WINDOW)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert weigh("unet", {"width": 0.1}, 1, 1, (64, 48))["size"] == [64, 48]
