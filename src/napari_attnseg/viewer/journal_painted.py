"""A journal of labels that a person paints on a layer of their own: strokes, masks of another day.

No answer is written into such a layer and napari's own history takes its steps back, so here only
its pixels are kept: of every step the tiles that it touched. What was there before the first step
is read behind the window.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.journal import Journal, Page
from napari_attnseg.io.runs import pack
from napari_attnseg.viewer.journal_planes import HELD
from napari_attnseg.viewer.journal_tiles import Key, box, tiles_of, tiles_under, with_held
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.session_image import KEPT_BYTES, transform_facts

if TYPE_CHECKING:
    from napari.layers import Labels, Layer
    from napari.viewer import ViewerModel

_TOOLS = ("paint", "erase", "fill", "polygon")
_LARGE = 64
"""Tiles of a step that are packed behind the window: they would hold it for some 20 ms."""


def is_own(layer: Layer) -> bool:
    """Whether a labels layer is a person's: no run brings it again."""
    entry = layer.metadata.get(METADATA)
    return layer._type_string == "labels" and not (isinstance(entry, dict) and "result_of" in entry)


def labels_facts(layer: Labels) -> dict[str, Any]:
    """Name, looks and place of a labels layer, as plain data."""
    entry = layer.metadata.get(METADATA)
    strokes = bool(isinstance(entry, dict) and entry.get("strokes"))
    classes = list(layer.properties.get("class", ()))[1:] if strokes else []
    return {
        "name": layer.name,
        "transform": transform_facts(layer),
        "strokes": strokes,
        "classes": [str(name) for name in classes],
        "visible": bool(layer.visible),
        "opacity": float(layer.opacity),
    }


def bring_labels(viewer: ViewerModel, facts: dict[str, Any], data: npt.NDArray[Any]) -> Labels:
    """The layer of :func:`labels_facts` again, with these pixels; chosen by nobody."""
    from napari.layers import Labels as LabelsLayer

    from napari_attnseg.viewer.strokes import recolor

    layer = LabelsLayer(
        data,
        name=facts["name"],
        visible=facts["visible"],
        opacity=facts["opacity"],
        metadata={METADATA: {"strokes": True}} if facts["strokes"] else {},
    )
    for name, value in facts["transform"].items():
        setattr(layer, name, tuple(value) if name in ("units", "axis_labels") else np.array(value))
    if facts["strokes"] and facts.get("classes"):
        recolor(layer, facts["classes"])
        layer.n_edit_dimensions = 2
    return viewer.add_layer(layer)


class PaintedBook:
    """Follows one layer and writes its steps into ``journal``, which it was given empty."""

    def __init__(self, layer: Labels, journal: Journal, saved: bool = False) -> None:
        self.layer, self.journal = layer, journal
        self.changes, self._saved = 0, saved
        self.shape = stack_of(layer).shape
        self._kind = np.dtype(layer.data.dtype).str
        self._lock = threading.Lock()
        self._told: dict[Key, int] = {}  # in which turn a tile was told of last
        self._turn = 0
        self._open: list[Key] = []
        self._history = self._lengths()
        self._threads: list[threading.Thread] = []
        self._behind(self._read, stack_of(layer))
        layer.events.paint.connect(self._on_paint)
        layer.events.set_data.connect(self._on_drawn)
        layer.events.labels_update.connect(self._on_drawn)

    @property
    def fits(self) -> bool:
        """Whether the layer still has pixels of the size that this journal was begun with."""
        return stack_of(self.layer).shape == self.shape

    def saved(self, on: bool) -> None:
        """Whether somebody else keeps the labels as they are now."""
        if on != self._saved:
            self._saved = on
            self.journal.facts(saved=on)

    def wait(self) -> bool:
        """Until all is on the disk; whether it is there."""
        self._join()
        return self.journal.wait()

    def close(self) -> None:
        """Nothing more is written."""
        self.layer.events.paint.disconnect(self._on_paint)
        self.layer.events.set_data.disconnect(self._on_drawn)
        self.layer.events.labels_update.disconnect(self._on_drawn)
        self._join()
        self.journal.close()

    def whole(self) -> None:
        """The layer was given other pixels of the same size."""
        if self.fits:
            keys = [key for z in range(self.shape[0]) for key in tiles_of(z, self.shape)]
            self._tell("code", keys)

    # --- inside ---------------------------------------------------------------------------------

    def _lengths(self) -> tuple[int, int]:
        undo, redo = (getattr(self.layer, f"_{way}_history", ()) for way in ("undo", "redo"))
        return len(undo), len(redo)

    def _on_paint(self, event: Any = None) -> None:
        """A step entered napari's history; some tools tell before they change the pixels."""
        self._history = self._lengths()
        under = tiles_under(getattr(event, "value", None), self.shape)
        if under is None:  # it cannot be told which: all of them
            under = [key for z in range(self.shape[0]) for key in tiles_of(z, self.shape)]
        self._open = under
        self._tell(str(self.layer.mode), under)

    def _on_drawn(self, event: Any = None) -> None:
        """What was announced is there now; or steps were taken back or brought again."""
        under, self._open = self._open, []
        before, self._history = self._history, self._lengths()
        if before != self._history:
            back = self._history[0] < before[0]
            steps = getattr(self.layer, "_redo_history" if back else "_undo_history", ())
            under = [*under, *((tiles_under(steps[-1], self.shape) or ()) if steps else ())]
        if under:
            self._tell("travel" if before != self._history else str(self.layer.mode), under)

    def _tell(self, what: str, keys: Iterable[Key]) -> None:
        if not self.fits:
            return
        keys, what = list(keys), what if what in (*_TOOLS, "travel") else "code"
        self.changes += 1
        self.saved(False)
        kind = np.dtype(self.layer.data.dtype).str
        if kind != self._kind:
            self._kind = kind
            self.journal.facts(dtype=kind)
        with self._lock:
            self._turn += 1
            self._told.update(dict.fromkeys(keys, self._turn))
        job = what, keys, self._turn, stack_of(self.layer)
        self._behind(self._write, *job) if len(keys) > _LARGE else self._write(*job)

    def _write(self, what: str, keys: list[Key], turn: int, stack: npt.NDArray[Any]) -> None:
        """Tiles that were told of in ``turn``, unless they have been told of again since."""
        for begin in range(0, len(keys), _LARGE):
            pages: dict[Page, bytes] = {
                (HELD, key): _packed(stack[box(key, self.shape)])
                for key in keys[begin : begin + _LARGE]
            }
            with self._lock:
                now = {p: data for p, data in pages.items() if self._told.get(p[1], 0) == turn}
                if now:
                    self.journal.tiles(what, now)

    def _read(self, stack: npt.NDArray[Any]) -> None:
        """In a thread: what was there at the beginning, unless it has been told since."""
        for z in range(self.shape[0]):
            if stack[z].any():
                self._write("answer", tiles_of(z, self.shape), 0, stack)

    def _behind(self, call: Callable[..., None], *job: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=call, args=job, name="attnseg-painted"))
        self._threads[-1].daemon = True
        self._threads[-1].start()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def can_be_kept(layer: Layer) -> bool:
    """Whether a labels layer has pixels in memory, two or three axes, and is not too large."""
    data = layer.data
    return isinstance(data, np.ndarray) and data.ndim in (2, 3) and 0 < data.nbytes <= KEPT_BYTES


def stack_of(layer: Labels) -> npt.NDArray[Any]:
    """The pixels (Z, Y, X), a view."""
    data = np.asarray(layer.data)
    return data[None] if data.ndim == 2 else data


def _packed(tile: npt.NDArray[Any]) -> bytes:
    """As held pixels: what is not zero."""
    where = tile != 0
    if not where.any():
        return b""
    return pack(with_held(np.zeros(tile.shape, np.uint16), where, tile))
