"""A window for tests that kill it: a scan, a run, a moved threshold, strokes with the mouse.

``python window_to_kill.py PLAN.json`` does the steps of the plan, writes what is seen to the
plan's ``out`` and then waits to be killed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

PATIENCE_SECONDS = 240


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        QTest.qWait(20)


def idle(dock: Any) -> None:
    QTest.qWait(100)
    until(lambda: not dock.hub.live.state.busy and not dock.hub.making, "the run")
    QTest.qWait(200)


def drag(viewer: Any, layer: Any, points: list[tuple[float, float]]) -> None:
    """Press, move and let go over pixels (y, x) of the seen slice, as the mouse does."""
    canvas = viewer.window._qt_viewer.canvas
    native = canvas.native
    kinds = [QEvent.Type.MouseButtonPress] + [QEvent.Type.MouseMove] * (len(points) - 1)
    steady(canvas)
    for kind, point in zip(kinds, points, strict=True):
        _send(canvas, native, layer, kind, point)
    _send(canvas, native, layer, QEvent.Type.MouseButtonRelease, points[-1])
    QTest.qWait(50)


def steady(canvas: Any) -> None:
    """New layers bring other controls, and the canvas takes another place: on a busy machine that
    takes longer than any fixed time."""
    before, same = None, 0
    while same < 3:
        QTest.qWait(50)
        view = canvas.view.transform * canvas.view.scene.transform
        now = (canvas.native.size(), tuple(view.map([0, 0])), tuple(view.map([9, 9])))
        same, before = (same + 1 if now == before else 0), now


def _send(canvas: Any, native: Any, layer: Any, kind: Any, point: tuple[float, float]) -> None:
    z = layer.world_to_data(canvas.viewer.dims.point)[0] if layer.ndim == 3 else None
    whole = point if z is None else (z, *point)
    world = np.asarray(layer.data_to_world(whole))[list(canvas.viewer.dims.displayed)]
    seen = canvas.view.transform * canvas.view.scene.transform
    x, y = seen.map([world[1], world[0]])[:2]
    at = QPointF(float(x), float(y))
    there = QPointF(native.mapToGlobal(at.toPoint()))
    none, left = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton
    moves, ends = kind == QEvent.Type.MouseMove, kind == QEvent.Type.MouseButtonRelease
    event = QMouseEvent(
        kind,
        at,
        there,
        none if moves else left,
        none if ends else left,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(native, event)
    QTest.qWait(20)


def seen(dock: Any) -> dict[str, Any]:
    """Everything that a restore must bring back."""
    edits, tuning = dock.hub.results.edits, dock.hub.tuning.to_json()
    masks = np.stack([edits.mask(z) for z in range(edits.shape[0])])
    return {"labels": np.array(edits.data), "held": masks, "tuning": json.dumps(tuning)}


def log(plan: dict[str, Any], dock: Any) -> None:
    """Every state that was reached, one file each, when the plan asks for it."""
    if "log" in plan:
        folder = Path(plan["log"])
        number = len(list(folder.glob("*.npy")))
        np.save(folder / "part", dock.hub.results.edits.data)
        (folder / "part.npy").replace(folder / f"{number:02}.npy")


def work(plan: dict[str, Any]) -> None:
    """Open, run, move the threshold by the dock's slider, paint, erase, take one step back."""
    from napari_attnseg.widgets.segment import SegmentWidget
    from napari_attnseg.widgets.tune import TuneWidget

    viewer = napari.Viewer()
    viewer.window.resize(1500, 950)
    dock, tune = SegmentWidget(viewer), TuneWidget(viewer)
    viewer.window.add_dock_widget(tune, area="right", name="Tune")
    viewer.window.add_dock_widget(dock, area="right", name="Segment")
    dock.choose.open_path(plan["scan"])
    dock.hub.set_model(plan["model"])
    dock.run.click()
    idle(dock)
    layer = dock.hub.results.labels
    viewer.dims.set_point(0, layer.data_to_world((plan["z"], 0, 0))[0])
    for value in plan["thresholds"]:
        tune.rows["threshold"].moved.emit("threshold", value)
        QTest.qWait(60)
    tune.rows["threshold"].released.emit("threshold", plan["thresholds"][-1])
    idle(dock)
    viewer.layers.selection.active = layer
    layer.mode, layer.brush_size, layer.selected_label = "paint", 4, 2
    log(plan, dock)
    for points in plan["strokes"]:
        drag(viewer, layer, points)
        log(plan, dock)
    layer.mode = "erase"
    drag(viewer, layer, plan["erased"])
    QTest.qWait(plan.get("wait_ms", 300))
    np.savez(plan["out"] + ".part.npz", **seen(dock))
    Path(plan["out"] + ".part.npz").replace(plan["out"])
    while True:
        QTest.qWait(100)


if __name__ == "__main__":
    work(json.loads(Path(sys.argv[1]).read_text()))
