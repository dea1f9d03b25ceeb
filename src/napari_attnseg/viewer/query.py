"""What does this pixel attend to? A point on the image whose attention row is shown as heat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_attnseg.viewer.kept_pixels import KeptPixels
from napari_attnseg.viewer.layers import METADATA, transform_of

if TYPE_CHECKING:
    from napari.layers import Points

    from napari_attnseg.viewer.hub import Hub


def query_for(hub: Hub) -> AttentionQuery:
    """The one query of a viewer, which all docks share."""
    if hub.query is None:
        hub.query = AttentionQuery(hub)
    return hub.query


class AttentionQuery:
    """Shows a movable point while it is on; a click on the image or a drag asks anew, a click with
    Shift keeps the pixel beside it (see ``kept``)."""

    toggled = Signal(bool)

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.points: Points | None = None
        self._results: Any = None  # of which a pixel was asked
        self._setting = False
        self.kept = KeptPixels(hub)
        hub.slice_changed.connect(self._on_slice)
        hub.source_changed.connect(self._on_source)
        hub.model_changed.connect(self._on_model)

    @property
    def on(self) -> bool:
        """Whether the point is there and clicks move it."""
        return self._on_click in self.hub.viewer.mouse_drag_callbacks

    def start(self) -> None:
        """Put the point in the middle of the visible slice and ask for it.

        Raises ``InputError`` when no image or model is chosen. A large image comes first.
        """
        self.hub.bring(self._begin)

    def _begin(self) -> None:
        results = self.hub.prepare()
        z, (_, rows, columns) = results.visible_z(), results.shape
        if self.points is None or self.points not in self.hub.viewer.layers:
            self.points = self._new_points(results)
        self.hub.viewer.layers.selection.active = self.points
        if not self.on:
            self.hub.viewer.mouse_drag_callbacks.append(self._on_click)
            self.toggled.emit(True)
        _show_row(results, True)
        self.move(z, rows // 2, columns // 2)

    def stop(self) -> None:
        """Take the point and its row away from sight; the layers stay."""
        if self.on:
            self.hub.viewer.mouse_drag_callbacks.remove(self._on_click)
            self.toggled.emit(False)
        self.hub.levels.hide_rows()
        _show_row(self._results, False)
        if self.points is not None and self.points in self.hub.viewer.layers:
            self.points.visible = False

    def move(self, z: int, y: int, x: int) -> None:
        """Put the point on pixel (z, y, x) and ask what it attends to."""
        if self.points is None:
            return
        here = np.array([[z, y, x]], float)[:, -self.points.ndim :]
        self._setting = True
        try:
            self.points.data = here
        finally:
            self._setting = False
        self.points.visible = True
        self._send(y, x)

    def keep(self) -> None:
        """Keep the pixel under the point."""
        if self.points is not None and len(self.points.data):
            *_, y, x = self.points.data[-1]
            self._keep(y, x)

    def _keep(self, y: float, x: float) -> None:
        rows, columns = self._size()
        if 0 <= round(y) < rows and 0 <= round(x) < columns:
            self.kept.keep(self.hub.visible_z(), round(y), round(x))

    def _new_points(self, results: Any) -> Points:
        from napari.layers import Points

        ndim = results.source.ndim
        layer = Points(
            np.zeros((1, ndim)),
            name=results.name("query"),
            symbol="ring",
            blending="translucent_no_depth",  # in 3D nothing hides it
            size=max(4.0, max(results.shape[1:]) / 28),
            face_color="#00e5ff",
            border_color="#00e5ff",
            metadata={METADATA: {"result_of": results.source.name, "what": "query"}},
            **transform_of(results.source),
        )
        self.hub.viewer.add_layer(layer)
        layer.mode = "select"
        layer.events.data.connect(self._on_moved)
        return layer

    def _on_moved(self, event: Any) -> None:
        """The person dragged the point (or added one: the last one counts)."""
        action = str(getattr(event.action, "value", event.action))
        if self._setting or action in ("changing", "adding", "removing") or not self.on:
            return  # told before the change: the point is still at its old place
        if self.points is None or not len(self.points.data):
            return
        *_, y, x = self.points.data[-1]
        self._ask(y, x)

    def _on_click(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click without a drag moves the point there."""
        start = np.asarray(event.position)
        yield
        while event.type == "mouse_move":
            yield
        if self.points is None or np.abs(np.asarray(event.position) - start).max() > 1e-6:
            return
        if self.points in viewer.layers and event.button == 1:
            *_, y, x = self.points.world_to_data(event.position)
            if "Shift" in event.modifiers:
                self._keep(y, x)
            else:
                self._place(y, x)

    def _on_source(self, layer: Any) -> None:
        """The point lies in the space of the former image: the next one gets its own."""
        self.stop()
        self.points = None

    def _on_model(self, checkpoint: str) -> None:
        """What does the new model say of the same pixel?"""
        if self.points is None or self.points not in self.hub.viewer.layers or not self.on:
            return
        if not checkpoint or self.hub.source is None:
            self.stop()
            return
        _show_row(self._results, False)
        *_, y, x = self.points.data[-1]

        def again() -> None:
            _show_row(self.hub.results, True)
            self._ask(y, x)

        self.hub.bring(again)

    def _on_slice(self, z: int) -> None:
        if self.points is not None and self.points in self.hub.viewer.layers and self.on:
            *_, y, x = self.points.data[-1]
            self._place(y, x)

    def _place(self, y: float, x: float) -> None:
        rows, columns = self._size()
        if 0 <= round(y) < rows and 0 <= round(x) < columns:
            self.move(self.hub.visible_z(), round(y), round(x))

    def _ask(self, y: float, x: float) -> None:
        rows, columns = self._size()
        if 0 <= round(y) < rows and 0 <= round(x) < columns:
            self._send(round(y), round(x))

    def _send(self, y: int, x: int) -> None:
        self.hub.ask_row(y, x)
        self._results = self.hub.results

    def _size(self) -> tuple[int, int]:
        results = self.hub.results
        return (0, 0) if results is None else (results.shape[1], results.shape[2])


def _show_row(results: Any, on: bool) -> None:
    row = results.layer("row") if results else None
    if row is not None:
        row.visible = on
