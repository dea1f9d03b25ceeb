"""Which pixel is asked for its affinity: a ring on the image that a click moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.layers import METADATA, transform_of
from napari_attnseg.viewer.strokes import spatial_shape

if TYPE_CHECKING:
    from napari.layers import Points

    from napari_attnseg.viewer.refine_work import RefineWork

_HANDS_OFF = ("pan_zoom", "transform")
"""In other modes a click belongs to the tool in hand (a brush, a point that is dragged)."""


class AffinityPixel:
    """Asks while it is on: for the pixel that was clicked, on the slice that is seen."""

    toggled = Signal(bool)

    def __init__(self, work: RefineWork) -> None:
        self.work, self.hub = work, work.hub
        self.points: Points | None = None
        self.at: tuple[int, int] | None = None
        self.hub.source_changed.connect(lambda _: self.stop())
        self.hub.slice_changed.connect(lambda _: self.again())
        work.chosen.connect(self.again)

    @property
    def on(self) -> bool:
        """Whether clicks ask."""
        return self._on_click in self.hub.viewer.mouse_drag_callbacks

    def start(self) -> None:
        """Ask for the pixel asked last, or the middle one; raises ``InputError``."""
        source = self.hub.source
        if self.at is None and source is not None:
            rows, columns = spatial_shape(source)[-2:]
            self.at = rows // 2, columns // 2
        y, x = self.at or (0, 0)
        self.work.ask_affinity(y, x)
        if not self.on:
            self.hub.viewer.mouse_drag_callbacks.append(self._on_click)
            active = self.hub.viewer.layers.selection.active
            if active is not None and getattr(active, "mode", "pan_zoom") != "pan_zoom":
                active.mode = "pan_zoom"  # else the brush in hand would paint
        self._draw()
        self.toggled.emit(True)

    def stop(self) -> None:
        """Ask no more; the ring goes out of sight."""
        if self.points is not None and self.points in self.hub.viewer.layers:
            self.hub.viewer.layers.remove(self.points)
        self.points, self.at = None, None
        if self.on:
            self.hub.viewer.mouse_drag_callbacks.remove(self._on_click)
            self.toggled.emit(False)

    def again(self) -> None:
        """Another slice, refinement or coarse mask: what does it say of the same pixel?"""
        if self.on and self.at is not None:
            self._ask(*self.at)

    def ask(self, y: int, x: int) -> None:
        """Ask for pixel (y, x) of the seen slice."""
        self.at = (y, x)
        self._draw()
        self._ask(y, x)

    def _ask(self, y: int, x: int) -> None:
        self._draw()
        try:
            self.work.ask_affinity(y, x)
        except AttnSegError as error:
            self.work.failed.emit(str(error), "")

    def _draw(self) -> None:
        source = self.hub.source
        if source is None or self.at is None:
            return
        here = np.array([[self.hub.visible_z(), *self.at]], float)[:, -source.ndim :]
        if self.points is None or self.points not in self.hub.viewer.layers:
            self.points = self._new_points(here)
        else:
            self.points.data = here

    def _new_points(self, here: Any) -> Points:
        from napari.layers import Points

        source = self.hub.source
        assert source is not None
        size = max(3.0, max(spatial_shape(source)[-2:]) / 40)
        layer = Points(
            here,
            name=f"{source.name}_affinity_pixel",
            symbol="ring",
            size=size,
            face_color="#00e5ff",
            border_color="#00e5ff",
            metadata={METADATA: {"result_of": source.name, "what": "query"}},
            **transform_of(source),
        )
        layers = self.hub.viewer.layers
        active = layers.selection.active
        layers.append(layer)
        layers.selection.active = active
        return layer

    def _on_click(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click without a drag asks; a stroke of the brush does not."""
        active = viewer.layers.selection.active
        busy = active is not None and str(getattr(active, "mode", "pan_zoom")) not in _HANDS_OFF
        start = np.asarray(event.position)
        yield
        while event.type == "mouse_move":
            yield
        if busy or event.button != 1 or np.abs(np.asarray(event.position) - start).max() > 1e-6:
            return
        source = self.hub.source
        if source is None or source not in viewer.layers:
            return
        *_, y, x = (round(float(v)) for v in source.world_to_data(event.position[-source.ndim :]))
        rows, columns = spatial_shape(source)[-2:]
        if 0 <= y < rows and 0 <= x < columns:
            self.ask(y, x)
