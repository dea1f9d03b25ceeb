"""Hand edits win: pixels a person painted are never overwritten by the engine.

Three things are kept apart: what the *model* says (``HandEdits.model``), what the person painted
(a mask and values, only for slices that were touched), and what the layer shows, which is the
second over the first. napari's own undo and redo keep working: after an undo a pixel shows what
the model says *now*, not what it said when the stroke was painted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.memory import empty_volume

if TYPE_CHECKING:
    from napari.layers import Labels

HISTORY = 100
"""Strokes remembered: the length of napari's own history of a Labels layer."""


@dataclass
class _Slice:
    """The edits of one slice: ``mask`` (Y,X) says where, ``values`` (Y,X) says what."""

    mask: npt.NDArray[np.bool_]
    values: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Stroke:
    """One step of the history: flat pixels of the volume, and flags and values around it."""

    pixels: npt.NDArray[np.int64]
    was: npt.NDArray[np.bool_]
    old: npt.NDArray[np.uint8]
    now: npt.NDArray[np.bool_]
    new: npt.NDArray[np.uint8]


class HandEdits:
    """Keeps the labels layer of one image: the model's answer under the person's edits.

    ``layer`` holds uint8 class ids of shape (Y, X) or (Z, Y, X); ``shape`` is (Z, Y, X).
    ``visible`` says which slices a stroke can have touched (all, unless given); ``empty`` that
    the layer holds nothing yet (a volume of zeros takes no memory until it is written). Only this
    object writes the layer's pixels, through :meth:`write`.
    """

    def __init__(
        self,
        layer: Labels,
        shape: tuple[int, int, int],
        visible: Callable[[], Iterable[int]] | None = None,
        empty: bool = False,
    ) -> None:
        self.layer = layer
        self.shape = shape
        self._visible = visible or (lambda: range(shape[0]))
        self.model = empty_volume(shape, np.uint8)
        self._slices: dict[int, _Slice] = {}
        self._undo: deque[_Stroke] = deque(maxlen=HISTORY)
        self._redo: deque[_Stroke] = deque(maxlen=HISTORY)
        self._pending: list[tuple[npt.NDArray[Any], ...]] = []
        self._resetting = False
        self._open = False
        if not empty:
            self._adopt_current()
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._close_stroke)
        layer.events.set_data.connect(self._close_stroke)
        self._plain_undo, self._plain_redo = layer.undo, layer.redo
        # the key bindings and menus of napari call these two on the layer itself
        layer.undo = lambda: self._travel(self._plain_undo, self._undo, self._redo, back=True)
        layer.redo = lambda: self._travel(self._plain_redo, self._redo, self._undo, back=False)

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """The layer's pixels as (Z, Y, X), a view."""
        return np.asarray(self.layer.data).reshape(self.shape)

    @property
    def count(self) -> int:
        """How many pixels are held by hand."""
        for z in range(self.shape[0]) if self.shape[0] == 1 else tuple(self._slices):
            self.absorb(z)
        return sum(int(s.mask.sum()) for s in self._slices.values())

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """Where slice ``z`` is held by hand, (Y, X)."""
        self.absorb(z)
        held = self._slices.get(z)
        return np.zeros(self.shape[1:], bool) if held is None else held.mask.copy()

    def write(self, z: int, labels_YX: npt.NDArray[Any]) -> bool:
        """Put the model's answer for slice ``z`` under the edits; true when pixels changed."""
        self._close_stroke()
        self.absorb(z)
        self.model[z] = labels_YX
        shown = self._shown(z)
        if np.array_equal(self.data[z], shown):
            return False
        self.data[z] = shown
        return True

    def absorb(self, z: int) -> None:
        """Take over whatever was painted (or set by code) on slice ``z`` since our last write."""
        painted = self.data[z]
        changed = painted != self._shown(z)
        if not changed.any():
            return
        pixels = np.flatnonzero(changed) + z * changed.size
        self._pending.append((pixels, *self._state(pixels)))
        self._hold(z, changed, painted[changed])

    def reset(self) -> int:
        """Drop all edits, show the model's answer, and return how many pixels were dropped.

        It is one step of napari's undo: Ctrl+Z brings the edits back.
        """
        dropped = self.count
        pixels = self._held_pixels()
        if not len(pixels):
            return 0
        where = np.unravel_index(pixels, self.shape)
        self._resetting = True
        try:
            index = where if self.layer.data.ndim == 3 else where[1:]
            self.layer.data_setitem(index, self.model[where])
        finally:
            self._resetting = False
        self._slices.clear()
        self._pending.clear()
        return dropped

    # --- inside -------------------------------------------------------------------------------

    def _adopt_current(self) -> None:
        """What the layer holds at the start is taken as the model's answer."""
        self.model[:] = self.data

    def _shown(self, z: int) -> npt.NDArray[np.uint8]:
        held = self._slices.get(z)
        return self.model[z] if held is None else np.where(held.mask, held.values, self.model[z])

    def _slice(self, z: int) -> _Slice:
        if z not in self._slices:
            y_x = self.shape[1:]
            self._slices[z] = _Slice(np.zeros(y_x, bool), np.zeros(y_x, np.uint8))
        return self._slices[z]

    def _hold(self, z: int, where: npt.NDArray[np.bool_], values: npt.NDArray[np.uint8]) -> None:
        held = self._slice(z)
        held.values[where] = values
        held.mask |= where

    def _held_pixels(self) -> npt.NDArray[np.int64]:
        area = self.shape[1] * self.shape[2]
        parts = [np.flatnonzero(s.mask) + z * area for z, s in sorted(self._slices.items())]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _on_paint(self, event: Any = None) -> None:
        """A step entered napari's history (some tools tell before they change the pixels)."""
        if self._resetting:
            pixels = self._held_pixels()
            self._remember(pixels, *self._state(pixels), held=False)
            return
        self._close_stroke()
        self._open = not self._take_stroke()

    def _close_stroke(self, event: Any = None) -> None:
        """The pixels of a step announced earlier are there now."""
        if self._open:
            self._open = False
            self._take_stroke()

    def _take_stroke(self) -> bool:
        for z in self._visible():
            self.absorb(z)
        if not self._pending:
            return False
        pixels, was, old = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        pixels, first = np.unique(pixels, return_index=True)
        self._remember(pixels, was[first], old[first], held=True)
        self._pending.clear()
        return True

    def _remember(
        self,
        pixels: npt.NDArray[np.int64],
        was: npt.NDArray[np.bool_],
        old: npt.NDArray[np.uint8],
        held: bool,
    ) -> None:
        now = np.full(len(pixels), held)
        after = (self.data if held else self.model).reshape(-1)[pixels]
        self._undo.append(_Stroke(pixels, was, old, now, after))
        self._redo.clear()

    def _state(
        self, pixels: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
        """Flags and values of flat ``pixels`` as they are held now."""
        was, old = np.zeros(len(pixels), bool), np.zeros(len(pixels), np.uint8)
        for z, chosen, inside in self._by_slice(pixels):
            if z in self._slices:
                was[chosen] = self._slices[z].mask.reshape(-1)[inside]
                old[chosen] = self._slices[z].values.reshape(-1)[inside]
        return was, old

    def _by_slice(
        self, pixels: npt.NDArray[np.int64]
    ) -> Iterable[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
        zs, inside = np.divmod(pixels, self.shape[1] * self.shape[2])
        for z in np.unique(zs):
            chosen = zs == z
            yield int(z), chosen, inside[chosen]

    def _travel(
        self,
        plain: Callable[[], None],
        source: deque[_Stroke],
        target: deque[_Stroke],
        back: bool,
    ) -> None:
        """napari's undo or redo, then the flags, then the model's present answer under it."""
        self._close_stroke()
        plain()
        if not source:
            return
        stroke = source.pop()
        target.append(stroke)
        held, values = (stroke.was, stroke.old) if back else (stroke.now, stroke.new)
        for z, chosen, inside in self._by_slice(stroke.pixels):
            here = self._slice(z)
            here.mask.reshape(-1)[inside] = held[chosen]
            here.values.reshape(-1)[inside] = values[chosen]
            self.data[z] = self._shown(z)
        self.layer.refresh(extent=False)
