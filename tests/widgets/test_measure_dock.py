"""The Measure dock in a window: rows that go to their place, clicks that find their row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_attnseg.viewer import measures
from napari_attnseg.viewer.measure_steps import steps_of
from napari_attnseg.widgets.measure import MeasureWidget

pytestmark = pytest.mark.gui
SHAPE = (7, 22, 26)


@pytest.fixture(params=[0, 10**9], ids=["in a thread", "at once"])
def dock(
    request: pytest.FixtureRequest,
    make_napari_viewer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> Iterator[MeasureWidget]:
    """A mask of two classes over its image; class 2 has two parts, and the smaller one a hole."""
    monkeypatch.setattr(measures, "AT_ONCE_VOXELS", request.param)
    viewer = make_napari_viewer(show=True)
    place = {"scale": (3.0, 0.5, 2.0), "translate": (100, 5, 6), "units": "mm"}
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:8, 2:10] = 1
    labels[5, 3:14, 12:25] = 2
    labels[2, 15:20, 15:20] = 2
    labels[2, 17, 17] = 0
    viewer.add_image(np.full(SHAPE, 7.0, np.float32), name="scan", **place)
    named = {"index": [0, 1, 2], "class": ["background", "liver", "spleen"]}
    viewer.add_labels(labels, name="mask", features=named, **place)
    widget = MeasureWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Measure")
    qtbot.waitUntil(lambda: widget.answer is not None, timeout=8000)
    yield widget
    widget.hub.close()


def again(dock: MeasureWidget, qtbot: Any, act: Callable[[], object]) -> None:
    """Do something and wait for the measures that follow it."""
    before = dock.answer
    act()
    qtbot.waitUntil(lambda: dock.answer not in (before, None), timeout=8000)


def click(qtbot: Any, dock: MeasureWidget, item: Any) -> None:
    at = dock.table.visualItemRect(item).center()
    qtbot.mouseClick(dock.table.viewport(), Qt.MouseButton.LeftButton, pos=at)


def test_rows_go_to_their_slice_and_tell_everything(dock: MeasureWidget, qtbot: Any) -> None:
    assert (dock.mask.currentText(), dock.image.currentText()) == ("mask", "scan")
    liver, spleen = dock.table.topLevelItem(0), dock.table.topLevelItem(1)
    assert [liver.text(i) for i in range(4)] == ["liver", "0.288 ml", "1", "7"]
    assert spleen.text(0) == "spleen"
    assert spleen.childCount() == 2
    click(qtbot, dock, liver)
    assert dock.viewer.dims.point[0] == pytest.approx(100 + 3 * round(1.5), abs=1.6)
    assert "96 voxels" in dock.detail.text()
    spleen.setExpanded(True)
    click(qtbot, dock, spleen.child(1))
    assert dock.viewer.dims.point[0] == pytest.approx(100 + 3 * 2)
    assert dock.viewer.scene.camera.center[-2:] == pytest.approx((5 + 0.5 * 17, 6 + 2 * 17))
    assert "part 2 of 2" in dock.detail.text()


def test_a_click_on_the_mask_selects_its_row(dock: MeasureWidget, qtbot: Any) -> None:
    dock.viewer.dims.set_point(0, 100 + 3 * 5)
    canvas = dock.viewer.window._qt_viewer.canvas.native
    seen = np.array(dock.viewer.scene.camera.center[-2:])
    offset = (np.array([5 + 0.5 * 8, 6 + 2 * 18]) - seen) * dock.viewer.scene.camera.zoom
    middle = canvas.rect().center()
    at = type(middle)(middle.x() + int(offset[1]), middle.y() + int(offset[0]))
    qtbot.mouseMove(canvas, at)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=at)
    assert dock.table.current is not None
    assert dock.table.current.name == "spleen"


def test_painting_is_measured_and_the_table_goes_out(
    dock: MeasureWidget, qtbot: Any, tmp_path: Path
) -> None:
    layer = dock.mask.layer
    again(dock, qtbot, lambda: layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 5))
    dock.save_to(str(tmp_path / "mask.csv"))
    rows = list(csv.DictReader((tmp_path / "mask.csv").open()))
    whole = {r["class"]: r for r in rows if r["part"] == ""}
    assert {k: int(r["voxels"]) for k, r in whole.items()} == {
        "liver": 96,
        "spleen": 143 + 24,
        "class 5": 1,
    }
    assert float(whole["liver"]["volume_ml"]) == pytest.approx(96 * 3 / 1000)
    dock.copy.click()
    lines = QApplication.clipboard().text().splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].startswith("mask\tid\tclass")


def test_a_reference_is_compared_and_shown(dock: MeasureWidget, qtbot: Any) -> None:
    layer = dock.mask.layer
    truth = layer.data.copy()
    truth[5, 3, 12:25] = 0
    same = {n: getattr(layer, n) for n in ("scale", "translate", "units")}
    reference = dock.viewer.add_labels(truth, name="truth", **same)
    dock.mask.choose(layer)
    again(dock, qtbot, lambda: dock.reference.layer.choose(reference))
    found = {a.name: a for a in dock.answer.agreements}
    assert found["liver"].dice == 1
    assert found["spleen"].fp == 13
    assert found["spleen"].hd95 == pytest.approx(0.5)
    dock.reference.error_map.click()
    name = "mask_errors"
    qtbot.waitUntil(lambda: name in dock.viewer.layers, timeout=5000)
    errors = dock.viewer.layers[name]
    assert (errors.data == 2).sum() == 13
    assert (errors.data == 1).sum() == (truth > 0).sum()
    np.testing.assert_array_equal(errors.scale, layer.scale)
    elsewhere = dock.viewer.add_labels(truth, name="elsewhere", scale=(1, 1, 1), units="mm")
    dock.mask.choose(layer)
    dock.reference.layer.choose(elsewhere)
    qtbot.waitUntil(lambda: "same place" in dock.errors.message, timeout=5000)


def test_a_binary_reference_is_compared_with_the_first_class(
    dock: MeasureWidget, qtbot: Any
) -> None:
    """0 and 255, as ImageJ writes a mask: said, and not shown as another class everywhere."""
    layer = dock.mask.layer
    assert layer is not None
    yes = np.where(np.asarray(layer.data) == 1, 255, 0).astype(np.uint8)
    place = {"scale": layer.scale, "translate": layer.translate, "units": layer.units}
    theirs = dock.viewer.add_labels(yes, name="theirs", **place)
    dock.mask.choose(layer)
    again(dock, qtbot, lambda: dock.reference.layer.choose(theirs))
    liver = next(a for a in dock.answer.agreements if a.id == 1)
    assert (liver.dice, liver.fp, liver.fn) == (1, 0, 0)
    assert "255 of the reference is compared as 1" in dock.reference.used.text()
    dock.reference.error_map.click()
    qtbot.waitUntil(lambda: "mask_errors" in dock.viewer.layers, timeout=5000)
    errors = dock.viewer.layers["mask_errors"].data
    assert (errors == 1).sum() == (yes > 0).sum()
    assert not (errors == 4).any()


def test_tidying_is_one_step_of_undo(dock: MeasureWidget, qtbot: Any) -> None:
    layer = dock.mask.layer
    before = layer.data.copy()
    dock.tidy.where.setCurrentIndex(1)
    again(dock, qtbot, dock.tidy.holes.click)
    assert layer.data[2, 17, 17] == 2
    assert "1 pixels changed" in dock.tidy.said.text()
    assert [dock.tidy.which.itemText(i) for i in range(3)] == [
        "of every class",
        "of liver",
        "of spleen",
    ]
    dock.tidy.which.setCurrentIndex(1)
    dock.tidy.largest.click()
    qtbot.waitUntil(lambda: "nothing to do" in dock.tidy.said.text(), timeout=5000)
    dock.tidy.which.setCurrentIndex(2)
    again(dock, qtbot, dock.tidy.largest.click)
    assert (layer.data[2, 15:20, 15:20] == 0).all()
    assert steps_of(layer) == [
        {"step": "fill_holes_2d", "pixels": 1},
        {"step": "keep_largest", "pixels": 25, "class": 2},
    ]
    layer.undo()
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
