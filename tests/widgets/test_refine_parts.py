"""Curve and rose of the Refine dock: figures that are drawn are the ones that were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QImage

from napari_attnseg.refinement.neighbours import rings
from napari_attnseg.widgets._refine_curve import ConvergenceCurve
from napari_attnseg.widgets._refine_rose import AffinityRose, Weights, place_words

pytestmark = pytest.mark.gui
CHANGED, MOVED, DICE = (0, 522, 200, 85), (0.0, 0.13, 0.06, 0.02), (0.9, 0.92, 0.925, 0.926)


def offsets(kernel: int) -> tuple[tuple[int, int], ...]:
    return tuple((o[0], o[1]) for ring in rings(kernel) for o in ring)


@pytest.fixture
def curve(qtbot: Any) -> ConvergenceCurve:
    made = ConvergenceCurve()
    qtbot.addWidget(made)
    made.resize(280, 180)
    made.show()
    return made


def test_the_readout_names_the_values_at_the_line(curve: ConvergenceCurve) -> None:
    assert "appears here" in curve.readout.text()
    curve.show_event(CHANGED, MOVED, DICE, "Slice 4")
    words = curve.readout.text().replace("&nbsp;", " ")
    assert "Slice 4, step 3 of 3" in words
    assert "<b>85</b> px changed" in words
    curve.set_step(1)
    words = curve.readout.text().replace("&nbsp;", " ")
    assert all(w in words for w in ("<b>522</b> px", "<b>0.130</b>", "Dice <b>0.920</b>"))
    curve.set_step(0)
    words = curve.readout.text()
    assert "coarse mask" in words
    assert "changed" not in words
    assert "0.900" in words


def test_a_press_picks_the_nearest_step(curve: ConvergenceCurve, qtbot: Any) -> None:
    curve.show_event(CHANGED, MOVED, (), "Image")
    picked: list[int] = []
    curve.picked.connect(picked.append)
    box = curve.plot.plotItem.vb
    for step in (1, 2, 0):
        at = curve.plot.mapFromScene(box.mapViewToScene(QPointF(step + 0.2, 0.5)))
        qtbot.mouseClick(curve.plot.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert picked == [1, 2, 0]
    assert curve.plot.line.value() == 0


def test_who_looks_at_a_step_stays_there_when_new_figures_come(curve: ConvergenceCurve) -> None:
    curve.show_event(CHANGED, MOVED, (), "Image")
    curve.set_step(1)
    curve.show_event(CHANGED, MOVED, (), "Image")
    assert curve.plot.step == 1
    curve.set_step(3)
    curve.show_event((*CHANGED, 4), (*MOVED, 0.001), (), "Image")
    assert curve.plot.step == 4, "at the end one stays at the end"
    curve.clear()
    assert curve.plot.isHidden()


# --- rose -----------------------------------------------------------------------------------------


@pytest.fixture(params=[3, 7])
def rose(request: pytest.FixtureRequest, qtbot: Any) -> AffinityRose:
    made = AffinityRose()
    qtbot.addWidget(made)
    made.resize(260, made.height())
    places = offsets(request.param)
    weights = tuple(float(w) for w in np.random.default_rng(0).normal(0, 0.1, len(places)))
    made.set_weights(Weights(places, weights, 0.4, 0.1))
    return made


def middle_color(rose: AffinityRose, dy: int, dx: int) -> QColor:
    picture = QImage(rose.size(), QImage.Format.Format_RGB32)
    picture.fill(QColor("#808080"))
    rose.render(picture, QPoint())
    place = rose.cell(dy, dx)
    # a quarter off the middle: arrows and figures stand elsewhere in every cell
    at = place.topLeft() + QPointF(place.width() * 0.75, place.height() * 0.3)
    if (dy, dx) in ((-1, 1), (-1, 0)):
        at = place.topLeft() + QPointF(place.width() * 0.25, place.height() * 0.7)
    return picture.pixelColor(round(at.x()), round(at.y()))


def test_every_neighbour_has_its_cell_and_its_words(rose: AffinityRose) -> None:
    found = rose.found
    assert found is not None
    for (dy, dx), weight in zip(found.offsets, found.weights, strict=True):
        words = rose.words_at(rose.cell(dy, dx).center())
        assert words == f"{place_words(dy, dx)}: {weight:+.3f}"
    up, down = rose.cell(-1, 0).center(), rose.cell(1, 0).center()
    assert up.y() < down.y(), "rows run downwards as in the image"
    assert rose.cell(0, -1).center().x() < rose.cell(0, 1).center().x()
    assert "coarse mask +0.400" in rose.words_at(rose.cell(0, 0).center())
    assert rose.words_at(QPointF(1, 1)) == ""


def test_signs_have_colours(rose: AffinityRose) -> None:
    found = rose.found
    assert found is not None
    order = sorted(zip(found.weights, found.offsets, strict=True))
    blue, orange = middle_color(rose, *order[0][1]), middle_color(rose, *order[-1][1])
    assert blue.blue() > blue.red()
    assert orange.red() > orange.blue()


def test_place_words() -> None:
    assert place_words(-1, 2) == "1 up, 2 right"
    assert place_words(3, 0) == "3 down"
    assert place_words(0, -1) == "1 left"
