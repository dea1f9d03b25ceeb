"""The Refine dock against the real engine process; a Session in this process is the oracle."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from napari.layers import Labels
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from window_to_kill import steady

from napari_attnseg.cards import read_card, shipped_checkpoints
from napari_attnseg.control.child import ChildClient
from napari_attnseg.engine.refining import Step
from napari_attnseg.engine.session import Session
from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.refined import CHANGE, MASK
from napari_attnseg.viewer.samples import nuclei
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets.refine import RefineWidget

pytestmark = pytest.mark.gui
WAIT = 90_000
FLAT = np.asarray(nuclei()[0][0])[20:117, 30:143]
VOLUME = np.stack([FLAT, FLAT[::-1], FLAT[:, ::-1]])
Dock = Callable[..., RefineWidget]


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


@pytest.fixture
def docked(
    make_napari_viewer: Callable[..., Any],
    qtbot: Any,
    engine: LentEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Dock]:
    """``docked(image)``: a Refine dock over ``image``."""
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: engine)
    hubs = []

    def make(image: np.ndarray | None, refinement: str = "nuclei_cspn", **layer: Any) -> Any:
        viewer = make_napari_viewer()
        if image is not None:
            viewer.add_image(image, name="cells", **layer)
        widget = RefineWidget(viewer)
        viewer.window.add_dock_widget(widget, area="right")
        hubs.append(widget.hub)
        widget.choose.choose_model(refinement)
        return widget

    yield make
    for hub in hubs:
        hub.close()


@pytest.fixture(scope="module")
def oracle() -> Callable[..., tuple[Step, ...]]:
    """Iterates of a shipped model by a Session of this process."""
    sessions: dict[str, Session] = {}

    def steps(image: np.ndarray, model: str = "nuclei_cspn", z: int = 0) -> tuple[Step, ...]:
        if model not in sessions:
            sessions[model] = Session(model, device="cpu")
        sessions[model].set_image(image if image.ndim == 3 else image[None])
        return sessions[model].steps(z)

    return steps


def wait(qtbot: Any, condition: Callable[[], Any]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=WAIT)


def refined(dock: RefineWidget, qtbot: Any) -> Labels:
    dock.run.click()
    wait(qtbot, lambda: dock.work.begun and len(dock.work.fresh) == dock.work.depth)
    assert dock.work.results is not None
    assert dock.work.results.labels is not None
    return dock.work.results.labels


def rest(dock: RefineWidget, qtbot: Any) -> None:
    """Until nothing is asked any more."""
    qtbot.wait(250)
    wait(qtbot, lambda: not dock._soon.isActive() and not dock.work.control.busy)


def stroke(dock: RefineWidget, points: list[tuple[int, int]]) -> None:
    """Drag the mouse over the canvas from pixel to pixel."""
    canvas = dock.hub.viewer.window._qt_viewer.canvas
    native = canvas.native
    steady(canvas)
    none, left = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton

    def send(kind: QEvent.Type, pixel: tuple[int, int], button: Any, held: Any) -> None:
        transform = canvas.view.transform * canvas.view.scene.transform
        at = QPointF(*(float(v) for v in transform.map([pixel[1], pixel[0]])[:2]))
        there = QPointF(native.mapToGlobal(at.toPoint()))
        keys = Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(native, QMouseEvent(kind, at, there, button, held, keys))

    send(QEvent.Type.MouseMove, points[0], none, none)
    send(QEvent.Type.MouseButtonPress, points[0], left, left)
    for point in points[1:]:
        send(QEvent.Type.MouseMove, point, none, left)
        QTest.qWait(20)
    send(QEvent.Type.MouseButtonRelease, points[-1], left, none)


# --- the main job ---------------------------------------------------------------------------------


def test_empty_states_say_what_to_do(docked: Dock) -> None:
    dock = docked(None)
    assert "Open an image" in dock.choose.empty.text()
    assert "appears here once" in dock.steps.curve.readout.text()
    assert "New strokes" in dock.strokes.words.text()
    assert "Ask a pixel" in dock.affinity.words.text()
    assert not dock.export.button.isEnabled()
    dock.strokes.new.click()
    assert "open one" in dock.errors.message
    dock.errors.clear()
    dock.affinity.ask.click()
    assert "no image" in dock.errors.message
    assert not dock.affinity.ask.isChecked()


def test_the_mask_is_the_models_and_follows_the_slider(
    docked: Dock, qtbot: Any, oracle: Callable[..., tuple[Step, ...]]
) -> None:
    dock, steps = docked(FLAT), oracle(FLAT)
    labels = refined(dock, qtbot)
    assert labels.name == "cells_nuclei_cspn_refined"
    np.testing.assert_array_equal(labels.data, steps[6].labels)
    assert np.any(steps[6].labels != steps[0].labels)
    row: Any = dock.steps.row
    for count in (0, 3):
        row.spin.setValue(count)
        wait(qtbot, lambda n=count: np.array_equal(labels.data, steps[n].labels))
    rest(dock, qtbot)
    assert dock.steps.curve.plot.last == 3


def test_every_iteration_is_a_layer_that_the_slider_scrubs(
    docked: Dock, qtbot: Any, oracle: Callable[..., tuple[Step, ...]]
) -> None:
    dock, steps = docked(FLAT, scale=(0.5, 0.25)), oracle(FLAT)
    labels = refined(dock, qtbot)
    viewer, shown = dock.hub.viewer, dock.work.shown
    dock.steps.boxes[MASK].click()
    dock.steps.boxes[CHANGE].click()
    wait(qtbot, lambda: shown.layers and shown.layers.alive(CHANGE))
    layers: Any = shown.layers
    np.testing.assert_array_equal(layers.layers[MASK].data, [s.labels for s in steps])
    probability = np.stack([s.probability for s in steps])
    change = np.diff(probability, axis=0, prepend=probability[:1])
    np.testing.assert_allclose(layers.layers[CHANGE].data, change, atol=1e-5)
    np.testing.assert_allclose(layers.layers[MASK].scale, (1, 0.5, 0.25))
    assert not labels.visible
    wait(qtbot, lambda: dock.steps.curve.plot.last == 6)
    assert tuple(dock.steps.curve.plot.values["changed"]) == tuple(s.changed for s in steps)
    viewer.dims.set_point(0, 2)
    assert "step 2 of 6" in dock.steps.curve.readout.text()
    dock.steps.curve.plot.picked.emit(4)
    assert viewer.dims.point[0] == 4
    truth = Labels(steps[6].labels.copy(), name="truth", scale=(0.5, 0.25))
    viewer.add_layer(truth)
    dock.steps.reference.choose(truth)
    wait(qtbot, lambda: "Dice" in dock.steps.curve.plot.values)
    dice = dock.steps.curve.plot.values["Dice"]
    assert dice[6] == pytest.approx(1.0)
    a, b = steps[0].labels > 0, steps[6].labels > 0
    assert dice[0] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-5)
    truth.data_setitem((np.arange(90), np.arange(90)), 0)
    wait(qtbot, lambda: dock.steps.curve.plot.values["Dice"][6] < 0.9999)
    truth.undo()
    wait(qtbot, lambda: dock.steps.curve.plot.values["Dice"][6] == pytest.approx(1.0))
    for what in (MASK, CHANGE):
        dock.steps.boxes[what].click()
    assert viewer.dims.ndim == 2
    assert labels.visible


# --- strokes --------------------------------------------------------------------------------------


def test_the_mask_follows_the_brush_and_undo_gives_the_same_bits(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    labels = refined(dock, qtbot)
    before = labels.data.copy()
    dock.strokes.new.click()
    strokes: Any = dock.work.watch.layer
    assert strokes.name == "cells_strokes"
    assert (strokes.mode, strokes.selected_label) == ("paint", 2)
    dark = np.argwhere(before == 0)
    y, x = (int(v) for v in dark[len(dark) // 2])
    inward = 1 if x < before.shape[1] // 2 else -1
    path = [(y, x + inward * k) for k in range(0, 12, 3)]
    stroke(dock, path)
    held = strokes.data == 2
    assert held[path[-1]], "the mouse painted"
    assert held.sum() > 12
    wait(qtbot, lambda: np.all(labels.data[held] == 1))
    rest(dock, qtbot)
    painted = labels.data.copy()
    assert "are held" in dock.strokes.words.text()
    assert strokes.data[held].all()
    dock.strokes.pick(1)
    bright = np.argwhere((painted > 0) & ~held)
    y, x = (int(v) for v in bright[len(bright) // 3])
    stroke(dock, [(y, x)])
    blocked = strokes.data == 1
    assert blocked[y, x]
    wait(qtbot, lambda: not labels.data[blocked].any())
    for _ in range(2):
        strokes.undo()
    wait(qtbot, lambda: np.array_equal(labels.data, before))
    for _ in range(2):
        strokes.redo()
    wait(qtbot, lambda: np.all(labels.data[held & ~blocked] == 1))
    dock.strokes.strength.spin.setValue(0.0)
    wait(qtbot, lambda: np.array_equal(labels.data, before))
    dock.strokes.strength.spin.setValue(1.0)
    wait(qtbot, lambda: np.all(labels.data[held & ~blocked] == 1))
    dock.strokes.clear.click()
    wait(qtbot, lambda: np.array_equal(labels.data, before))
    assert not strokes.data.any()


def test_strokes_first_need_no_button(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    dock.strokes.new.click()
    stroke(dock, [(5, 5), (5, 9)])
    wait(qtbot, lambda: dock.work.begun and 0 in dock.work.fresh)
    assert dock.work.results is not None
    layer: Any = dock.work.watch.layer
    assert np.all(dock.work.results.labels.data[layer.data == 2] == 1)  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_engine_that_dies_takes_nothing_along(
    docked: Dock, qtbot: Any, engine: LentEngine
) -> None:
    dock = docked(FLAT)
    labels = refined(dock, qtbot)
    plain = labels.data.copy()
    dock.strokes.new.click()
    strokes: Any = dock.work.watch.layer
    y, x = (int(v) for v in np.argwhere(plain == 0)[500])
    strokes.paint((y, x), 2)
    held = strokes.data == 2
    wait(qtbot, lambda: np.all(labels.data[held] == 1))
    rest(dock, qtbot)
    before = labels.data.copy()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)  # so that the question is surely not answered
    dock.steps.row.spin.setValue(2)  # type: ignore[union-attr]
    wait(qtbot, lambda: dock.work.control.busy)
    os.kill(engine.pid, signal.SIGKILL)
    wait(qtbot, lambda: "engine stopped" in dock.errors.message.lower())
    assert np.array_equal(labels.data, before)
    assert np.array_equal(strokes.data == 2, held)
    dock.steps.row.spin.setValue(6)  # type: ignore[union-attr]
    dock.run.click()
    wait(qtbot, lambda: dock.work.fresh == {0} and not dock.work.control.busy)
    rest(dock, qtbot)
    assert np.array_equal(labels.data, before)
    dock.strokes.clear.click()
    wait(qtbot, lambda: np.array_equal(labels.data, plain))


def test_an_exported_mask_says_how_it_came_about(docked: Dock, qtbot: Any, tmp_path: Path) -> None:
    dock = docked(FLAT)
    refined(dock, qtbot)
    dock.strokes.new.click()
    strokes: Any = dock.work.watch.layer
    strokes.paint((40, 50), 2)
    wait(qtbot, lambda: 0 in dock.work.fresh and dock.work.results.provenance["stroke_pixels"])  # type: ignore[union-attr]
    with qtbot.waitSignal(dock.export.exported, timeout=WAIT):
        dock.export.export_to(str(tmp_path / "mask.png"))
    with PIL.Image.open(tmp_path / "mask.png") as file:
        found = json.loads(file.text["napari-attnseg"])  # type: ignore[attr-defined]
    told, card = found["provenance"], read_card(shipped_checkpoints()["nuclei_cspn"])
    assert found["classes"] == {"0": "background", "1": "nuclei"}
    assert told["program"].startswith("napari-attnseg ")
    assert (told["model"], told["model_digest"]) == ("nuclei_cspn", card.digest)
    assert told["tuning"]["cut"] == 0.5
    assert told["tuning"]["iterations"] == told["iterations"] == 6
    assert told["coarse_mask"] == "the refinement's own"
    assert told["stroke_pixels"] == np.count_nonzero(strokes.data)


# --- coarse masks ---------------------------------------------------------------------------------


def test_any_labels_or_probability_can_be_refined(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    viewer = dock.hub.viewer
    mask = np.zeros(FLAT.shape, np.uint8)
    mask[10:40, 20:60] = 5
    mine = viewer.add_labels(mask, name="mine")
    chance = viewer.add_image((mask.T.reshape(FLAT.shape) > 0) * 0.9, name="chance")
    viewer.add_image(FLAT, name="raw")
    names = [dock.choose.coarse.itemText(i) for i in range(dock.choose.coarse.count())]
    assert names == ["the refinement's own model", "chance", "mine"]
    dock.choose.coarse.choose(mine)
    labels = refined(dock, qtbot)
    row: Any = dock.steps.row
    row.spin.setValue(0)
    wait(qtbot, lambda: np.array_equal(labels.data, mask > 0))
    assert not mine.visible
    mine.data_setitem((np.array([70]), np.array([80])), 5)
    wait(qtbot, lambda: labels.data[70, 80] == 1)
    mine.visible = True  # napari tells nothing of a hidden layer
    mine.undo()
    wait(qtbot, lambda: labels.data[70, 80] == 0)
    mine.redo()
    wait(qtbot, lambda: labels.data[70, 80] == 1)
    dock.choose.coarse.choose(chance)
    wait(qtbot, lambda: np.array_equal(labels.data, chance.data > 0.5))
    row.spin.setValue(6)
    wait(qtbot, lambda: np.any(labels.data != (chance.data > 0.5)))


def test_what_does_not_fit_is_refused_in_one_sentence(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    viewer = dock.hub.viewer
    wrong = viewer.add_image(FLAT * 3.0, name="far", contrast_limits=(0, 1))
    dock.choose.coarse.choose(wrong)
    assert "expected a probability from 0 to 1" in dock.errors.message
    assert dock.choose.coarse.layer is None
    small = viewer.add_labels(np.zeros((9, 9), np.uint8), name="small")
    for combo in (dock.steps.reference, dock.strokes.layer):
        dock.errors.clear()
        combo.choose(small)
        assert "small" in dock.errors.message
        assert combo.layer is None
    dock.errors.clear()
    dock.choose.choose_model("nuclei_smooth_unet")
    assert "has no refinement in it" in dock.errors.message
    assert dock.work.checkpoint == "nuclei_cspn"
    refined(dock, qtbot)


# --- volumes --------------------------------------------------------------------------------------


def test_a_volume_slice_by_slice(
    docked: Dock,
    qtbot: Any,
    oracle: Callable[..., tuple[Step, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = docked(VOLUME, scale=(3, 1, 1))
    viewer = dock.hub.viewer
    viewer.dims.set_point(0, 3)
    assert dock.here.isVisibleTo(dock)
    dock.here.click()
    wait(qtbot, lambda: dock.work.fresh == {1})
    rest(dock, qtbot)
    assert "1 of 3 slices have these values" in dock.line.words.text()
    dock.export.button.click()
    assert "press Refine all slices first" in dock.errors.message
    labels = refined(dock, qtbot)
    for z in range(3):
        np.testing.assert_array_equal(labels.data[z], oracle(VOLUME, z=z)[6].labels)
    dock.steps.boxes[MASK].click()
    wait(qtbot, lambda: dock.work.shown.layers and dock.work.shown.layers.alive(MASK))
    layers: Any = dock.work.shown.layers
    assert layers.layers[MASK].data.shape == (7, 1, *FLAT.shape)
    assert layers.layers[MASK].translate[1] == 3
    viewer.dims.set_point(1, 6)
    wait(qtbot, lambda: layers.layers[MASK].translate[1] == 6)
    wanted = oracle(VOLUME, z=2)[2].labels
    np.testing.assert_array_equal(layers.layers[MASK].data[2, 0], wanted)
    dock.steps.boxes[MASK].click()
    dock.strokes.new.click()
    assert dock.strokes.carry_row.isVisibleTo(dock)
    dock.strokes.carry.setValue(1)
    wait(qtbot, lambda: 2 in dock.work.fresh)
    rest(dock, qtbot)
    strokes: Any = dock.work.watch.layer
    strokes.paint((2, 50, 50), 2)
    wait(qtbot, lambda: labels.data[2, 50, 50] == 1)
    wait(qtbot, lambda: {1, 2} <= dock.work.fresh)  # the neighbour follows by itself
    assert 0 not in dock.work.fresh
    target = tmp_path / "mask.tif"
    refined(dock, qtbot)
    with qtbot.waitSignal(dock.export.exported, timeout=WAIT):
        dock.export.export_to(str(target))
    assert target.is_file()
    assert "✓" in dock.export.verdict.text()


def test_hand_edits_on_the_refined_mask_win(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    labels = refined(dock, qtbot)
    y, x = np.argwhere(labels.data == 0)[0]
    labels.paint((int(y), int(x)), 1)
    own = labels.data == 1
    row: Any = dock.steps.row
    row.spin.setValue(2)
    rest(dock, qtbot)
    assert labels.data[y, x] == 1
    assert own[y, x]


# --- DySPN and affinity ---------------------------------------------------------------------------


def test_dyspn_shows_the_attention_of_every_iteration(docked: Dock, qtbot: Any) -> None:
    dock = docked(FLAT)
    assert not dock.steps.attention.isVisibleTo(dock)
    refined(dock, qtbot)
    dock.choose.choose_model("nuclei_dyspn")
    assert dock.steps.attention.isVisibleTo(dock)
    wait(qtbot, lambda: dock.work.begun and 0 in dock.work.fresh)
    assert "Hidden, not deleted: cells_nuclei_cspn_refined" in dock.errors.message
    parts = ["attention centre", "attention ring 3"]
    for what in parts:
        dock.steps.boxes[what].click()
    wait(qtbot, lambda: dock.work.shown.layers and dock.work.shown.layers.alive(parts[1]))
    layers: Any = dock.work.shown.layers
    first, second = (layers.layers[what].data for what in parts)
    assert first.shape == (6, *FLAT.shape)
    assert 0 <= first.min() < first.max() <= 1
    assert np.any(first != second)
    assert any(np.any(first[t] != first[t + 1]) for t in range(5)), "anew in every iteration"


@pytest.mark.parametrize(("model", "count"), [("nuclei_cspn", 8), ("nuclei_dyspn", 48)])
def test_a_click_asks_what_a_pixel_takes(docked: Dock, qtbot: Any, model: str, count: int) -> None:
    dock = docked(FLAT, model)
    dock.affinity.ask.click()
    rose = dock.affinity.rose
    wait(qtbot, lambda: rose.found is not None)
    stroke(dock, [(20, 33)])
    wait(qtbot, lambda: "Row 20, column 33" in dock.affinity.words.text())
    found: Any = rose.found
    assert len(found.weights) == count
    assert sum(found.weights) + found.centre + found.residual == pytest.approx(1, abs=1e-4)
    points: Any = dock.affinity.pixel.points
    np.testing.assert_allclose(points.data, [[20, 33]])
    dock.affinity.ask.click()
    assert points not in dock.hub.viewer.layers
    assert rose.isHidden()
