"""A window for tests that kill it: a refined mask, strokes and a painted mask, by mouse.

``python refined_to_kill.py PLAN.json`` does the steps, writes what is seen to the plan's ``out``
and then waits to be killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtTest import QTest
from window_to_kill import drag, until


def settled(dock: Any) -> None:
    """The mask of the newest strokes is in the layer."""
    work = dock.work
    until(lambda: bool(work.fresh) and not work.walk and not work.control.busy, "the refinement")
    QTest.qWait(100)


def seen(dock: Any) -> dict[str, Any]:
    """Everything that a restore must bring back."""
    work, edits = dock.work, dock.work.results.edits
    return {
        "refined": np.array(edits.data),
        "held": np.stack([edits.mask(z) for z in range(edits.shape[0])]),
        "strokes": np.array(work.watch.layer.data),
        "values": json.dumps([work.control.state.iterations, work.control.state.strength]),
    }


def work(plan: dict[str, Any]) -> None:
    """Refine, scrub the iterations, paint strokes, paint on the mask itself."""
    from napari_attnseg.widgets.refine import RefineWidget
    from napari_attnseg.widgets.segment import SegmentWidget

    viewer = napari.Viewer()
    viewer.window.resize(1500, 950)
    dock, segment = RefineWidget(viewer), SegmentWidget(viewer)
    viewer.window.add_dock_widget(segment, area="right", name="Segment")
    viewer.window.add_dock_widget(dock, area="right", name="Refine")
    segment.choose.open_path(plan["scan"])
    dock.choose.choose_model(plan["model"])
    dock.run.click()
    until(lambda: dock.work.begun, "the first mask")
    settled(dock)
    dock.steps.row.moved.emit("iterations", plan["iterations"])
    settled(dock)
    dock.strokes.new.click()
    dock.strokes.pick(2)
    strokes = dock.work.watch.layer
    strokes.brush_size = 3
    for points in plan["strokes"]:
        drag(viewer, strokes, points)
        if "log" not in plan:
            settled(dock)
        else:
            number = len(list(Path(plan["log"]).glob("*.npy")))
            np.save(Path(plan["log"]) / "part", strokes.data)
            (Path(plan["log"]) / "part.npy").replace(Path(plan["log"]) / f"{number:02}.npy")
    dock.strokes.strength.moved.emit("strength", 0.8)
    settled(dock)
    mask = dock.work.results.labels
    viewer.layers.selection.active = mask
    mask.mode, mask.brush_size, mask.selected_label = "paint", 3, 1
    drag(viewer, mask, plan["painted"])
    QTest.qWait(300)
    np.savez(plan["out"] + ".part.npz", **seen(dock))
    Path(plan["out"] + ".part.npz").replace(plan["out"])
    while True:
        QTest.qWait(100)


if __name__ == "__main__":
    work(json.loads(Path(sys.argv[1]).read_text()))
