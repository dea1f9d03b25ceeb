"""Rows and plot of the Tune dock, without an engine."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_attnseg.control.messages import Fingerprinted
from napari_attnseg.settings import CUT, Tunable
from napari_attnseg.widgets._compare import difference
from napari_attnseg.widgets._plots import Fingerprint
from napari_attnseg.widgets._scale import StepScale
from napari_attnseg.widgets._sliders import ChoiceRow, FloatRow, IntRow, make_row

pytestmark = pytest.mark.gui

THRESHOLD = Tunable("threshold", "float", 0.02, "gate", "what counts as a step")
STEP = np.random.default_rng(0).gamma(0.5, 0.03, 400).clip(0, 1)


@pytest.fixture
def threshold_row(qtbot):
    made = make_row(THRESHOLD)
    qtbot.addWidget(made)
    made.set_scale(StepScale(STEP, "quantile", 0.02))
    return made


def signals_of(made):
    told = []
    made.moved.connect(lambda name, value: told.append(("moved", name, value)))
    made.released.connect(lambda name, value: told.append(("released", name, value)))
    return told


def test_kinds(qtbot):
    rule = Tunable("rule", "choice", "authors", "gate", "doc", choices=("paper", "authors"))
    for tunable, kind in ((THRESHOLD, FloatRow), (CUT, FloatRow), (rule, ChoiceRow)):
        made = make_row(tunable)
        qtbot.addWidget(made)
        assert isinstance(made, kind)
        assert made.value() == tunable.default
        assert made.slider.toolTip() if kind is FloatRow else made.combo.toolTip()


def test_slider_moves_along_quantiles(threshold_row):
    told = signals_of(threshold_row)
    threshold_row.slider.setValue(0.5)
    median = float(np.median(np.append(0, STEP)))
    assert told[-1][:2] == ("moved", "threshold")
    assert told[-1][2] == pytest.approx(median, rel=1e-6)
    assert threshold_row.spin.value() == pytest.approx(median, abs=1e-4)


def test_typing_plain_puts_the_slider_at_its_end(threshold_row):
    threshold_row.spin.setValue(2.0)
    assert threshold_row.value() == 2.0
    assert threshold_row.slider.value() == pytest.approx(1.0)


def test_set_value_is_silent_and_exact(threshold_row):
    told = signals_of(threshold_row)
    threshold_row.set_value(0.0123456789)
    assert told == []
    assert threshold_row.value() == 0.0123456789


def test_typing_counts_as_release_once_it_rests(threshold_row, qtbot):
    with qtbot.waitSignal(threshold_row.released, timeout=30_000) as caught:
        threshold_row.spin.setValue(0.1)
    assert caught.args == ["threshold", 0.1]


def test_a_drag_with_rests_is_one_until_the_mouse_is_let_go(threshold_row, qtbot):
    """A press beside the middle of the handle moves it before the slider is held down."""
    threshold_row.resize(300, 60)
    threshold_row.show()
    slider = threshold_row.slider
    slider.setValue(0.5)
    qtbot.waitUntil(lambda: not threshold_row._settle.isActive(), timeout=2000)
    told = signals_of(threshold_row)
    start = QPoint(round(slider.handle_x(0.5)) + 3, slider.height() // 2)
    qtbot.mousePress(slider, Qt.MouseButton.LeftButton, pos=start)
    assert told, "the press has moved it"
    qtbot.wait(500)
    qtbot.mouseMove(slider, start + QPoint(-40, 0))
    qtbot.wait(500)
    assert {what for what, *_ in told} == {"moved"}, "nobody has let go"
    qtbot.mouseRelease(slider, Qt.MouseButton.LeftButton, pos=start + QPoint(-40, 0))
    assert [what for what, *_ in told].count("released") == 1
    assert told[-1][2] == threshold_row.value()


def test_reset_shows_only_away_from_the_trained_value(threshold_row):
    told = signals_of(threshold_row)
    assert threshold_row.reset_button.isHidden()
    threshold_row.set_value(0.1)
    assert not threshold_row.reset_button.isHidden()
    threshold_row.reset_button.click()
    assert threshold_row.value() == 0.02
    assert told == [("moved", "threshold", 0.02), ("released", "threshold", 0.02)]


def test_trained_tick_follows_the_scale(threshold_row):
    quantile = threshold_row.slider._tick
    threshold_row.set_scale(StepScale(STEP, "linear", 0.02))
    assert quantile == pytest.approx(float(StepScale(STEP, "quantile").position(0.02)))
    assert threshold_row.slider._tick == pytest.approx(0.02 / StepScale(STEP).upper)


CURVES = Fingerprinted(
    thresholds=(0.0, 0.1, 2.0), area=(10, 30, 20), components=(4, 2, 3), dice=(0.5, 0.9, 0.7)
)


@pytest.fixture
def fingerprint(qtbot):
    made = Fingerprint()
    qtbot.addWidget(made)
    made.resize(300, 190)
    made.show()
    made.set_data(STEP, CURVES, "linear", 0.02)
    return made


def test_readout_is_the_value_at_the_line(fingerprint):
    """Between two thresholds the lower one's mask holds."""
    assert fingerprint.plot.values_at(0.15) == {"area": 30, "objects": 2, "Dice": 0.9}
    fingerprint.show_values(0.05)
    words = fingerprint.readout.text()
    assert "<b>10</b>" in words
    assert "<b>0.500</b>" in words
    assert "IoU" not in words


def test_press_in_the_plot_moves_and_release_settles(fingerprint, qtbot):
    plot, told = fingerprint.plot, []
    plot.moved.connect(lambda t: told.append(("moved", t)))
    plot.released.connect(lambda t: told.append(("released", t)))
    from qtpy.QtCore import QPointF, Qt

    view = plot.plotItem.vb

    def at(position):
        return plot.mapFromScene(view.mapViewToScene(QPointF(position, 0.5)))

    qtbot.mousePress(plot.viewport(), Qt.MouseButton.LeftButton, pos=at(0.5))
    qtbot.mouseMove(plot.viewport(), at(0.8))
    qtbot.mouseRelease(plot.viewport(), Qt.MouseButton.LeftButton, pos=at(0.8))
    upper = plot.scale_now.upper
    assert [name for name, _ in told] == ["moved", "moved", "released"]
    assert told[0][1] == pytest.approx(0.5 * upper, abs=0.02 * upper)
    assert told[-1][1] == pytest.approx(0.8 * upper, abs=0.02 * upper)


def test_quantile_scale_redraws_the_curves(fingerprint):
    x, _ = fingerprint.plot._curves["area"].getData()
    assert x[1] == pytest.approx(0.1 / StepScale(STEP, include=0.02).upper)
    fingerprint.set_data(STEP, CURVES, "quantile", 0.02)
    x, y = fingerprint.plot._curves["area"].getData()
    assert x[1] == pytest.approx(float(StepScale(STEP, "quantile").position(0.1)))
    assert np.allclose(y, [0.2, 1, 0.6, 0.6])  # the last value reaches to the frame


def test_difference_by_hand():
    tuned, plain = np.array([[0, 1, 2, 0]]), np.array([[0, 2, 0, 1]])
    assert difference(tuned, plain).tolist() == [[0, 1, 2, 3]]


def test_a_whole_number_snaps_and_is_told_once(qtbot):
    made = make_row(Tunable("iterations", "int", 6, "gate", "how often", 0, 24))
    qtbot.addWidget(made)
    assert isinstance(made, IntRow)
    told = signals_of(made)
    for position in (0.5, 0.51, 0.49):
        made.slider.setValue(position)
    assert told == [("moved", "iterations", 12)]
    assert isinstance(told[0][2], int)
    assert made.slider.value() == pytest.approx(0.5)
    qtbot.keyClick(made.slider, Qt.Key.Key_Right)
    assert made.value() == 13
    assert made.spin.text() == "13"
    made.spin.stepUp()
    assert made.value() == 14
    qtbot.keyClick(made.slider, Qt.Key.Key_End)
    qtbot.keyClick(made.slider, Qt.Key.Key_PageDown)
    assert made.value() == 23
    made.set_value(3.0)
    assert (made.value(), type(made.value())) == (3, int)
    made.reset_button.click()
    assert made.value() == 6
