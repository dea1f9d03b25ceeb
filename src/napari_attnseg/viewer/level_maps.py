"""The attention of every level as layers, each at its own resolution.

A person chooses maps; each becomes one layer that is made once and from then on only gets new
pixels: for another slice, other values, another asked pixel. Of several pictures on one grid it is
the one that is asked for, before that the mean (channels, heads) or labels that say which wins
where (branches, regions). What is no
picture (weights of channels, matrices) becomes no layer; it is kept in ``figures`` for the dock.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.control.level_asker import LevelAsker
from napari_attnseg.control.messages import Failed
from napari_attnseg.control.questions import LevelMapFile, LevelMapsDone
from napari_attnseg.viewer.attention3d import camera_of
from napari_attnseg.viewer.level_stacks import (
    FIRST,
    Key,
    Stacks,
    mean_of,
    show_winner,
)
from napari_attnseg.viewer.level_volumes import is_volume, on_image, show_volume, strongest
from napari_attnseg.viewer.results import MapGrid

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers

ROW = "row"
PICTURES = ("spatial", "signed", ROW)
"""Kinds of maps that are always one picture over the image."""
_COLD_HOT = ((0.13, 0.45, 1.0, 1.0), (0.35, 0.6, 0.9, 0.0), (0.95, 0.6, 0.3, 0.0), (1, 0.4, 0, 1))
"""Blue for what is below zero, orange above; what is about zero lets the image through."""

_CLEAR = 2.0
"""The colours of a map grow from clear to full on the first half of its range."""


class LevelLayers:
    """The chosen maps of the hub's image and model.

    ``known``: all maps that the model has shown (rows only after a pixel was asked). ``ranges``:
    lowest and highest value of each on the slice seen last; ``peaks``: of volumes, the slice on
    which they are largest. ``chosen``: those in sight; the eye
    in the layer list chooses too. ``entries``: names of the pictures of those that are several;
    ``figures``: the values of those that are no picture. ``about``: of a 3D model, which part of
    the scan they are of, in words. ``changed`` tells that one of these is new.
    """

    changed = Signal()

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.asker = LevelAsker(hub.live)
        self.known: tuple[LevelMapFile, ...] = ()
        self.ranges: dict[Key, tuple[float, float]] = {}
        self.peaks: dict[Key, int] = {}
        self.chosen: set[Key] = set()
        self.stacks = Stacks()
        self.figures: dict[Key, npt.NDArray[Any]] = {}
        self.at: tuple[int, int] | None = None
        self.about = ""
        self._shown: set[Key] = set()
        self._eyes: weakref.WeakKeyDictionary[Any, Key] = weakref.WeakKeyDictionary()
        hub.live.looked_at = self.near
        self.asker.done.connect(self._on_done)
        self.asker.failed.connect(hub.live.failed.emit)
        hub.slice_changed.connect(self._on_slice)
        hub.model_changed.connect(self._forget)
        hub.source_changed.connect(self._forget)

    @property
    def entries(self) -> dict[Key, tuple[str, ...]]:
        """Names of the pictures of those maps that are several."""
        return self.stacks.names

    def look(self) -> None:
        """Ask which maps there are, and for their pixels on the visible slice.

        Raises ``InputError`` when no image or model is chosen.
        """
        self.hub.bring(self._ask)

    def refresh(self) -> None:
        """Bring the chosen maps to the present slice and values, if there are any."""
        if self.chosen:
            self._ask()

    def choose(self, key: Key, on: bool) -> None:
        """Show or hide one map; a layer that is hidden stays in the list."""
        if on:
            self.chosen.add(key)
            self._show(key)
            self.look()
        else:
            self.chosen.discard(key)
            layer = self.layer(key)
            if layer is not None:
                layer.visible = False

    def choose_entry(self, key: Key, entry: int) -> None:
        """Of several pictures show the one numbered ``entry`` from 0 on (-1: their mean, or which
        wins where). It is seen at once when the pictures of the slice are at hand."""
        layer, results = self.layer(key), self.hub.results
        self.stacks.choose(key, entry)
        if layer is not None and layer is not self.layer(key):
            self._shown.discard(key)
            layer.visible = False
        if key not in self.chosen or results is None:
            return
        self._show(key)
        z = results.visible_z()
        held = self.stacks.held(key, z)
        if held is None:
            self.look()
        else:
            self._update(results, held[0], z, held[1])

    def ask_pixel(self, y: int, x: int) -> None:
        """What pixel (y, x) of the visible slice attends to, at the chosen places, or at the
        coarsest one (it overlooks most) when none is chosen."""
        self.at = (y, x)
        self.look()

    def hide_rows(self) -> None:
        """Nobody asks for a pixel any more: its layers go out of sight."""
        self.at = None
        for key in [k for k in self.chosen if k[1] == ROW]:
            self.choose(key, False)
        self.changed.emit()

    def layer(self, key: Key) -> Any:
        """The living layer of a map, or ``None``."""
        results, found = self.hub.results, self._file(key)
        return None if results is None or found is None else results.layer(self._what(found))

    def _what(self, found: LevelMapFile) -> str:
        """The word of the layer that shows a map now."""
        key = (found.place, found.name)
        return f"{word(found)} winner" if self.stacks.wins(key, found) else word(found)

    def close(self) -> None:
        """Stop listening to the engine."""
        self.asker.close()

    def near(self) -> tuple[int, ...]:
        """Pixel (y, x) about which a 3D model answers: the asked one, or in the middle of the
        view; empty when that lies outside of the image."""
        return self.at or looked_at(self.hub)

    # --- inside -------------------------------------------------------------------------------

    def _ask(self) -> None:
        y, x = self.at or (-1, -1)
        wanted = self.stacks.wanted(self.known, self.chosen)
        self.asker.ask(y, x, stacks=wanted, near=self.near())

    def _file(self, key: Key) -> LevelMapFile | None:
        return next((m for m in self.known if (m.place, m.name) == key), None)

    def _on_slice(self, z: int) -> None:
        self.refresh()

    def _forget(self, *_: Any) -> None:
        self.known, self.at, self.about = (), None, ""
        self.chosen.clear()
        self.ranges.clear()
        self.peaks.clear()
        self.stacks.clear()
        self.figures.clear()
        self._shown.clear()
        for layer, key in list(self._eyes.items()):
            if key[1] == ROW:  # of another model or image: no answer to what is asked now
                layer.visible = False
        self.changed.emit()

    def _on_done(self, event: LevelMapsDone, maps: Sequence[npt.NDArray[Any]]) -> None:
        results = self.hub.answered
        if results is None:
            return
        before = dict(self.ranges), self.about
        self.about = event.about
        rows = [m for m in event.maps if m.kind == ROW]
        kept = [m for m in self.known if m.kind == ROW] if event.y < 0 else []
        self.known = (*event.maps, *kept)
        if self.at is not None and event.y >= 0:
            self._choose_row(rows)
        keys = {(m.place, m.name) for m in self.known}
        self.ranges = {key: ends for key, ends in self.ranges.items() if key in keys}
        self._sort(event, maps)
        for found, values in zip(event.maps, maps, strict=True):
            seen = mean_of(found, values)
            ends = float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf))
            self.ranges[found.place, found.name] = ends
            self._note_peak(found, seen, results.shape[0])
            self._adopt(found)
            self._update(results, found, event.z, values)
        if before != (self.ranges, self.about) or event.y >= 0:
            self.changed.emit()

    def _note_peak(self, found: LevelMapFile, seen: npt.NDArray[Any], slices: int) -> None:
        peak = strongest(found, seen, slices)
        if peak is None:
            self.peaks.pop((found.place, found.name), None)
        else:
            self.peaks[found.place, found.name] = peak

    def _sort(self, event: LevelMapsDone, maps: Sequence[npt.NDArray[Any]]) -> None:
        """Tell pictures, several pictures and figures apart."""
        for found, values in zip(event.maps, maps, strict=True):
            several = self.stacks.take(found, event.z, values)
            if not several and found.kind not in PICTURES:
                self.figures[found.place, found.name] = values

    def _adopt(self, found: LevelMapFile) -> None:
        """A layer that stayed in sight while another model was chosen counts as chosen."""
        key = (found.place, found.name)
        layer = self.layer(key)
        if layer is not None and layer.visible:
            self.chosen.add(key)

    def _on_eye(self, event: Any) -> None:
        """The person pressed the eye of a layer."""
        layer = event.source
        key = self._eyes.get(layer)
        if key is None or self.layer(key) is not layer or layer.visible == (key in self.chosen):
            return
        if layer.visible:
            self.chosen.add(key)
            self._ask()
        else:
            self.chosen.discard(key)
        self.changed.emit()

    def _choose_row(self, rows: list[LevelMapFile]) -> None:
        """An asked pixel is answered where the person looks, or at the coarsest place."""
        if not rows:
            self.hub.live.failed.emit(Failed(0, "InputError", _no_rows(self.known)))
        elif not any(name == ROW for _, name in self.chosen):
            key = (rows[-1].place, ROW)
            self.chosen.add(key)
            self._show(key)

    def _update(
        self, results: ResultLayers, found: LevelMapFile, z: int, values: npt.NDArray[Any]
    ) -> None:
        key, what = (found.place, found.name), self._what(found)
        if key not in self.chosen or key in self.figures:
            return
        gone = key in self._shown and results.layer(what) is None
        if gone:  # the person deleted it
            self.chosen.discard(key)
            self._shown.discard(key)
            self.changed.emit()
            return
        layer = self._written(results, found, z, values)
        self._shown.add(key)
        if layer not in self._eyes:
            self._eyes[layer] = key
            layer.events.visible.connect(self._on_eye)
        layer.visible = True

    def _written(
        self, results: ResultLayers, found: LevelMapFile, z: int, values: npt.NDArray[Any]
    ) -> Any:
        """The layer of a map with these values in it."""
        key, what = (found.place, found.name), self._what(found)
        values = on_image(results, found, values)
        if self.stacks.wins(key, found):
            return show_winner(results, what, found, z, values)
        seen = self.stacks.picture(key, found, values)
        signed = found.kind == "signed" or (found.kind == ROW and float(seen.min()) < 0)
        layer = show_picture(results, what, found, z, seen)
        if layer not in self._eyes:
            _paint(layer, found.kind, signed)
        # one range for all pictures, so that they can be compared
        fit_colours(layer, seen if self.stacks.entry(key) == FIRST else values, signed)
        return layer

    def _show(self, key: Key) -> None:
        layer = self.layer(key)
        if layer is not None:
            layer.visible = True


def looked_at(hub: Hub) -> tuple[int, ...]:
    """Pixel (y, x) of the visible slice in the middle of the view, or empty for one outside of the
    image."""
    results = hub.results
    if results is None:
        return ()
    centre = np.asarray(hub.viewer.dims.point, float)
    shown = list(hub.viewer.dims.displayed)
    middle = np.asarray(camera_of(hub.viewer).center, float)[-len(shown) :]
    centre[shown] = middle
    *_, y, x = np.asarray(results.source.world_to_data(centre[-results.source.ndim :]))
    rows, columns = results.shape[1:]
    inside = 0 <= round(y) < rows and 0 <= round(x) < columns
    return (round(y), round(x)) if inside else ()


def word(found: LevelMapFile) -> str:
    """How a map is called in the layer list: ``"level 2 received"``, ``"head scale weights"``."""
    place = found.level.replace("_", " ") or found.title.split(",")[0].replace(":", "")
    return f"{place} {found.name}"


def show_picture(
    results: ResultLayers, what: str, found: LevelMapFile, z: int, values: npt.NDArray[Any]
) -> Any:
    """The layer called ``what`` with one picture of slice ``z`` in it, or of a window about it."""
    if is_volume(results, found):
        return show_volume(results, what, found, values)
    layer = results.ensure_map(what, MapGrid(values.shape, found.scale, found.offset))
    results.write(what, z, values)
    return layer


def fit_colours(layer: Any, values: npt.NDArray[Any], signed: bool) -> None:
    """Spread the colours over the values; symmetric about 0 where they have signs. From 0 on
    where that leaves half of the colours to be seen, else from the lowest value on."""
    top = float(np.abs(values).max(initial=0.0)) or 1.0
    low = float(values.min(initial=top))
    low = low if not signed and top / 2 < low < top * (1 - 1e-4) else 0.0
    limits = (-top, top) if signed else (low, top)
    if max(abs(a - b) for a, b in zip(limits, layer.contrast_limits, strict=True)) > 1e-3 * (
        limits[1] - limits[0]
    ):
        layer.contrast_limits_range = limits
        layer.contrast_limits = limits


def _paint(layer: Any, kind: str, signed: bool) -> None:
    """Colours that let the image through where the attention is low."""
    from napari.utils import Colormap

    layer.blending = "translucent"
    if signed:
        layer.colormap = Colormap(_COLD_HOT, name="cold-hot", controls=(0, 0.45, 0.55, 1))
        return
    from napari.utils.colormaps import ensure_colormap

    name = "inferno" if kind == ROW else "magma"
    colours = np.array(ensure_colormap(name).colors)
    colours[:, 3] = np.minimum(1.0, np.linspace(0, _CLEAR, len(colours)))
    layer.colormap = Colormap(colours, name=f"clear {name}")


def _no_rows(known: tuple[LevelMapFile, ...]) -> str:
    if not known:
        return "this model has no attention, so no pixel attends to another; choose another model"
    return (
        "this model's attention weighs pixels one by one and has no rows to show; see its maps "
        "in the Tune dock, under Attention of every level"
    )
