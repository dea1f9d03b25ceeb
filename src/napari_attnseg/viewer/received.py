"""The attention received of large volumes: asked for where somebody looks at it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.control.live import LiveController
from napari_attnseg.control.state import LiveState
from napari_attnseg.settings import Tuning

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.viewer.results import ResultLayers


class Received:
    """Asks for the map of the seen slice while its layer is shown and the run has made none of it.

    A run over a large volume leaves these maps out: they cost a third of its time, and their layer
    is hidden unless a person shows it.
    """

    def __init__(self, live: LiveController) -> None:
        self._live = live
        self._layers: ResultLayers | None = None
        self._known: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._asked: dict[int, Tuning] = {}
        self._place = 0, 0
        live.state_changed.connect(self._moved)
        live.released.connect(self._look)

    def follow(self, layers: ResultLayers) -> None:
        """From now on the map of these results."""
        if layers is not self._layers:
            self._layers, self._asked = layers, {}
        layer = layers.layer("received")
        if layer is not None and layer not in self._known:
            self._known.add(layer)
            layer.events.visible.connect(self._look)
        self._look()

    def _moved(self, state: LiveState) -> None:
        """The person looks at another slice; a value that is being dragged has the way free."""
        if (state.z, state.axis) != self._place:
            self._place = state.z, state.axis
            self._look()

    def _look(self, event: Any = None) -> None:
        layers, state = self._layers, self._live.state
        layer = layers.layer("received") if layers is not None else None
        if layers is None or layer is None or not layer.visible or state.axis != 0:
            return
        if state.shape != layers.shape or layer.ndim != 3:
            return
        asked = self._asked.get(state.z)
        if asked == state.tuning or (asked is None and np.any(layer.data[state.z])):
            return
        self._asked[state.z] = state.tuning
        self._live.request_row(z=state.z)
