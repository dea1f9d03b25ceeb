"""Pixels that stay asked: each with a numbered marker and a picture of what it attends to.

The one movable point of ``AttentionQuery`` answers the newest question; what is kept here stays
beside it, so that several pixels can be compared. A kept pixel belongs to its slice: its picture is
filled there and follows the model and its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.control.level_asker import LevelAsker
from napari_attnseg.control.questions import LevelMapFile, LevelMapsDone
from napari_attnseg.viewer.layers import METADATA, transform_of
from napari_attnseg.viewer.level_maps import ROW, fit_colours, show_picture, word
from napari_attnseg.viewer.level_volumes import on_image

if TYPE_CHECKING:
    from napari.layers import Points

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers

COLOURS = ("#ff9f1c", "#8ac926", "#f15bb5", "#9b5de5", "#fee440", "#e71d36", "#c08552", "#f8f9fa")
"""Of the markers and their pictures, by number; none is like the ring of the asked pixel."""
Pixel = tuple[int, int, int]


class KeptPixels:
    """``pixels``: number to pixel (z, y, x). ``changed`` tells that one came or went."""

    changed = Signal()

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.pixels: dict[int, Pixel] = {}
        self.points: Points | None = None
        self._asker = LevelAsker(hub.live, "kept")
        self._asked: tuple[int, ...] = ()
        self._shown: list[Any] = []  # the pictures, of all models
        self._setting = False
        self._asker.done.connect(self._on_done)
        self._asker.failed.connect(hub.live.failed.emit)
        hub.slice_changed.connect(lambda _: self.refresh())
        hub.source_changed.connect(lambda _: self.clear())
        hub.model_changed.connect(lambda _: self._on_model())

    def keep(self, z: int, y: int, x: int) -> int:
        """Keep pixel (z, y, x) and ask what it attends to; its number (from 1)."""
        for number, pixel in self.pixels.items():
            if pixel == (z, y, x):
                return number
        number = max(self.pixels, default=0) + 1
        self.pixels[number] = (z, y, x)
        self._mark()
        self.changed.emit()
        self.refresh()
        return number

    def clear(self) -> None:
        """Take all kept pixels, their markers and their pictures away."""
        if not self.pixels and self.points is None:
            return
        layers, gone = self.hub.viewer.layers, (*self._shown, self.points)
        self.pixels, self.points, self._shown, self._asked = {}, None, [], ()
        for layer in gone:
            if layer is not None and layer in layers:
                layers.remove(layer)
        self.changed.emit()

    def refresh(self) -> None:
        """Ask anew for the kept pixels of the visible slice, if there are any."""
        if self.pixels and self.hub.source is not None and self.hub.checkpoint:
            self.hub.bring(self._ask)

    def close(self) -> None:
        """Stop listening to the engine."""
        self._asker.close()

    # --- inside -------------------------------------------------------------------------------

    def _ask(self) -> None:
        z = self.hub.visible_z()
        here = {n: p for n, p in self.pixels.items() if p[0] == z}
        self._asked = tuple(here)
        if here:
            (y, x), *others = [(p[1], p[2]) for p in here.values()]
            self._asker.ask(y, x, others)

    def _on_model(self) -> None:
        for layer in self._shown:
            if layer in self.hub.viewer.layers:
                layer.visible = False  # another model's answer
        self.refresh()

    def _on_done(self, event: LevelMapsDone, maps: Sequence[npt.NDArray[Any]]) -> None:
        results = self.hub.answered
        if results is None:
            return
        rows = [(f, v) for f, v in zip(event.maps, maps, strict=True) if f.kind == ROW]
        chosen = {(f.place, f.name) for f, _ in rows} & self.hub.levels.chosen
        if not chosen and rows:  # the coarsest overlooks most
            chosen = {(rows[-1][0].place, rows[-1][0].name)}
        for found, values in rows:
            number = self._asked[found.query] if found.query < len(self._asked) else 0
            if number in self.pixels and (found.place, found.name) in chosen:
                self._write(results, found, event.z, values, number)

    def _write(
        self,
        results: ResultLayers,
        found: LevelMapFile,
        z: int,
        values: npt.NDArray[Any],
        number: int,
    ) -> None:
        what = f"{word(found)} {number}"
        made = results.layer(what) is None
        values = on_image(results, found, values)
        layer = show_picture(results, what, found, z, values)
        signed = float(values.min()) < 0
        colour = colour_of(number)
        if made:
            self._shown.append(layer)
            layer.visible = True
        if made or (signed and layer.colormap.name == clear_name(colour)):
            _tint(layer, colour, signed)
        fit_colours(layer, values, signed or layer.colormap.name == signed_name(colour))

    # --- markers ------------------------------------------------------------------------------

    def _mark(self) -> None:
        """One numbered ring per pixel."""
        ndim = self.hub.source.ndim if self.hub.source is not None else 3
        places = np.array([*self.pixels.values()], float).reshape(-1, 3)[:, -ndim:]
        self._setting = True
        try:
            if self.points is None or self.points not in self.hub.viewer.layers:
                self.points = self._new_points(ndim)
            self.points.data = places
            self.points.features = {"number": [*self.pixels]}
            colours = [colour_of(n) for n in self.pixels]
            self.points.border_color = colours
            self.points.face_color = colours
        finally:
            self._setting = False

    def _new_points(self, ndim: int) -> Points:
        from napari.layers import Points

        results = self.hub.prepare()
        layer = Points(
            np.zeros((0, ndim)),
            name=f"{results.source.name}_kept pixels",
            symbol="ring",
            blending="translucent_no_depth",  # in 3D nothing hides them
            size=max(4.0, max(results.shape[1:]) / 28),
            features={"number": np.zeros(0, int)},
            text={
                "string": "{number}",
                "size": 14,
                "color": "white",
                "anchor": "upper_left",
                "blending": "translucent_no_depth",
            },
            metadata={METADATA: {"result_of": results.source.name, "what": "kept pixels"}},
            **transform_of(results.source),
        )
        chosen = self.hub.viewer.layers.selection.active
        self.hub.viewer.add_layer(layer)
        if chosen is not None:
            self.hub.viewer.layers.selection.active = chosen
        layer.events.data.connect(self._on_edited)
        self.hub.viewer.layers.events.removed.connect(self._on_removed)
        return layer

    def _on_removed(self, event: Any) -> None:
        """Who deletes the markers wants no pictures of them either."""
        if event.value is self.points:
            self.clear()

    def _on_edited(self, event: Any) -> None:
        """The person moved or deleted markers: their pictures follow."""
        action = str(getattr(event.action, "value", event.action))
        if self._setting or action not in ("changed", "removed") or self.points is None:
            return
        numbers = [int(n) for n in self.points.features["number"]]
        places = np.asarray(self.points.data)
        flat = np.zeros((len(places), 3))
        flat[:, 3 - places.shape[1] :] = places
        limits = np.array(self.hub.prepare().shape) - 1
        inside = np.clip(np.round(flat), 0, limits).astype(int)
        gone = set(self.pixels) - set(numbers)
        self.pixels = {n: (z, y, x) for n, (z, y, x) in zip(numbers, inside.tolist(), strict=True)}
        for layer in [x for x in self._shown if int(x.name.rpartition(" ")[2]) in gone]:
            self._shown.remove(layer)
            if layer in self.hub.viewer.layers:
                self.hub.viewer.layers.remove(layer)
        self.changed.emit()
        self.refresh()


def colour_of(number: int) -> str:
    """The colour of the pixel kept as ``number`` (from 1)."""
    return COLOURS[(number - 1) % len(COLOURS)]


def clear_name(colour: str) -> str:
    """Of the colours of a picture without signs."""
    return f"clear {colour}"


def signed_name(colour: str) -> str:
    """Of the colours of a picture with signs."""
    return f"signed {colour}"


def _tint(layer: Any, colour: str, signed: bool) -> None:
    """From clear to the marker's colour, so that marker and picture are seen to belong together;
    what is below zero goes to its opposite."""
    from napari.utils import Colormap
    from napari.utils.color import ColorValue

    top = np.array(ColorValue(colour))
    clear = np.array([*top[:3], 0.0])
    layer.blending = "translucent"
    if not signed:
        layer.colormap = Colormap([clear, top], name=clear_name(colour))
        return
    below = np.array([*(1 - top[:3]), 1.0])
    colours = [below, np.array([*below[:3], 0.0]), clear, top]
    layer.colormap = Colormap(colours, name=signed_name(colour), controls=(0, 0.49, 0.51, 1))
