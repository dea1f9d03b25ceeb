"""Docks that were closed: what they listened to goes on without them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets.cka import CkaWidget
from napari_attnseg.widgets.measure import MeasureWidget
from napari_attnseg.widgets.segment import SegmentWidget
from napari_attnseg.widgets.train import TrainWidget
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui


class Client(InProcessClient):
    pid = None


def test_closed_docks_are_not_called_any_more(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: Client())
    raised: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: raised.append(what))
    viewer = make_napari_viewer()
    image = viewer.add_image(np.random.default_rng(0).random((3, 40, 48)), name="a")
    strokes = viewer.add_labels(np.zeros((3, 40, 48), np.uint8), name="strokes")
    hub = hub_for(viewer)
    hub.set_model(str(tiny_checkpoint))
    hub.set_source(image)
    kinds: tuple[Any, ...] = (SegmentWidget, TuneWidget, TrainWidget, CkaWidget, MeasureWidget)
    kept = [dock(viewer) for dock in kinds]  # held by Python, as a script or a cycle may
    held = [viewer.window.add_dock_widget(made, name=type(made).__name__) for made in kept]
    hub.run()
    labels = hub.results.labels
    for made, frame in zip(kept, held, strict=True):
        viewer.window.remove_dock_widget(frame)
        made.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    assert not any(isalive(made) for made in kept)
    for layer in (labels, strokes):
        layer.paint((1, 20, 20), 1)
        layer.selected_label = 2
        layer.mode = "paint"
        layer.mode = "pan_zoom"
    viewer.dims.set_point(0, 2)
    hub.tune(threshold=0.2)
    hub.ask_row(3, 4)
    hub.levels.look()
    hub.run()
    flat = viewer.add_image(np.zeros((20, 20)), name="b")
    hub.set_source(flat)
    viewer.layers.remove("a")
    viewer.layers.remove("strokes")
    QCoreApplication.processEvents()
    hub.close()
    assert raised == []
