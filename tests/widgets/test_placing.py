"""The table of placed attention in the Train dock."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_attnseg.engine.describe import describe, weigh
from napari_attnseg.widgets._placing import PlacingEditor
from napari_attnseg.widgets._train_form import SettingsForm

pytestmark = pytest.mark.gui
WORDS = "skip[1:]=attention_gate:inner=3; bottleneck=joint:structure=2"


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return describe()


@pytest.fixture
def form(qtbot: Any, known: dict[str, Any]) -> SettingsForm:
    made = SettingsForm()
    qtbot.addWidget(made)
    made.model.describe(known["models"], known["attentions"])
    made.refresh()
    made.set_model("placed_unet")
    made.show()
    return made


def table(form: SettingsForm) -> PlacingEditor:
    editor = form.model.editors["attention"]
    assert isinstance(editor, PlacingEditor)
    return editor


def choose(combo: QComboBox, data: str) -> None:
    index = combo.findData(data)
    assert index >= 0, data
    combo.setCurrentIndex(index)


def test_rows_are_added_chosen_and_taken_out(form: SettingsForm, qtbot: Any) -> None:
    placing = table(form)
    qtbot.mouseClick(placing.rows[0].drop, Qt.MouseButton.LeftButton)
    assert form.settings.options["attention"] == ""
    assert "plain U-Net" in placing.words.text()
    qtbot.mouseClick(placing.add, Qt.MouseButton.LeftButton)
    (row,) = placing.rows
    choose(row.use, "joint")
    choose(row.at, "encoder[2]")
    row.editors["structure"].widget.setCurrentIndex(3)  # type: ignore[union-attr]
    assert form.settings.options["attention"] == "encoder[2]=joint:structure=4"
    choose(row.use, "attention_gate")  # a gate cannot stand in the encoder
    assert form.settings.options["attention"] == "skip=attention_gate"
    assert {row.at.itemData(i).partition("[")[0] for i in range(row.at.count())} == {"skip"}


def test_what_was_said_in_words_comes_back(form: SettingsForm) -> None:
    placing = table(form)
    placing.show(WORDS)
    assert placing.value == WORDS
    assert placing.rows[0].editors["inner"].value == 3
    placing.show("what is this")
    assert "PLACE=NAME" in placing.words.text()


def test_places_follow_the_levels(form: SettingsForm) -> None:
    placing = table(form)
    choose(placing.rows[0].use, "joint")
    assert placing.rows[0].at.findData("skip[3]") >= 0
    form.model.editors["levels"].widget.setValue(2)  # type: ignore[union-attr]
    assert placing.rows[0].at.findData("skip[3]") < 0
    assert placing.rows[0].at.findData("skip[1]") >= 0


def test_every_offered_choice_can_be_built(form: SettingsForm, known: dict[str, Any]) -> None:
    placing = table(form)
    for info in known["attentions"]:
        if 2 not in info["ndim"]:
            continue
        choose(placing.rows[0].use, info["name"])
        options = {"width": 0.1, "levels": 2} | dict(form.settings.options)
        assert weigh("placed_unet", options, 1, 2, (32, 32))["places"], info["name"]
