"""Strokes on their way to the engine while the brush moves: only what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.viewer.strokes import labels_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Labels

    from napari_attnseg.viewer.hub import Hub

SCANNED_BYTES = 256 << 20
"""Layers up to this size are looked through after every stroke: that takes milliseconds."""
_WHOLE = ("set_data", "data")


class StrokeWatch:
    """Follows one labels layer: 0 free, 1 background, k + 1 = class k.

    ``painted``: slices that changed. ``odd``: a label that is no class; its pixels count as free.
    """

    painted = Signal(tuple)
    odd = Signal(int)

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.layer: Labels | None = None
        self.classes = 1
        self._known: dict[int, npt.NDArray[np.uint8]] = {}
        self._image: Any = None  # of which the engine has the strokes
        self._odd = 0
        self._open = False

    @property
    def pixels(self) -> int:
        """Pixels that strokes hold."""
        return sum(int(np.count_nonzero(known)) for known in self._known.values())

    def follow(self, layer: Labels | None, classes: int = 1) -> None:
        """Follow another layer, or none. Raises ``InputError`` when it does not fit the image."""
        source = self.hub.source
        if layer is not None and source is not None:
            labels_array(layer, source)
        if layer is not self.layer:
            self._connect(False)
            self.layer = layer
            self._connect(True)
        self.classes, self._image = classes, None
        self._known = {}
        self._look()

    def hand_over(self) -> None:
        """Give the engine all strokes on the image that it holds."""
        control, source = self.hub.refine, self.hub.source
        self._image = self.hub.live.state.image
        if self.layer is None or source is None:
            control.set_strokes(None)
            return
        self._look()
        stack = labels_array(self.layer, source)
        empty = np.zeros(stack.shape[1:], np.uint8)
        whole = np.broadcast_to(empty, stack.shape)
        control.set_strokes(whole if not self._known else _Slices(self._known, empty, len(stack)))

    def clear(self) -> None:
        """Take all strokes away, as one step that Ctrl+Z brings back."""
        layer = self.layer
        if layer is None:
            return
        where = np.nonzero(np.asarray(layer.data))
        if len(where[0]):
            layer.data_setitem(where, 0)

    # --- inside ---------------------------------------------------------------------------------

    def _connect(self, on: bool) -> None:
        if self.layer is None:
            return
        told = dict.fromkeys(_WHOLE, self._on_whole)
        told |= {"labels_update": self._on_dab, "paint": self._on_stroke}
        for name, call in told.items():
            event = getattr(self.layer.events, name)
            event.connect(call) if on else event.disconnect(call)

    def _stack(self) -> npt.NDArray[Any]:
        assert self.layer is not None
        data = np.asarray(self.layer.data)
        return data[None] if data.ndim == 2 else data

    def _look(self) -> None:
        """Know all slices as they are, without telling."""
        if self.layer is None:
            return
        stack = self._stack()
        self._known = {z: self._clean(stack[z]) for z in range(len(stack)) if stack[z].any()}

    def _clean(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        top = int(pixels.max(initial=0))
        if top <= self.classes + 1:
            return pixels.astype(np.uint8)
        if top != self._odd:
            self._odd = top
            self.odd.emit(top)
        return np.where(pixels <= self.classes + 1, pixels, 0).astype(np.uint8)

    def _on_dab(self, event: Any = None) -> None:
        """The brush moves over the seen slice."""
        assert self.layer is not None
        if self._open:
            self._on_stroke()
            self._open = False
            return
        depth = len(self._stack())
        dims = self.hub.viewer.dims
        across = depth > 1 and (dims.ndisplay == 3 or dims.ndim - 3 in dims.displayed)
        flat = self.layer.n_edit_dimensions == 2 and not across
        self._tell((self.hub.visible_z(),) if flat and depth > 1 else range(depth))

    def _on_stroke(self, event: Any = None) -> None:
        """A step entered the history: other slices may have got it too (a fill, a script). Some
        tools tell before they change the pixels: the next word of the layer is looked at too."""
        self._open = True
        stack = self._stack()
        small = stack.nbytes <= SCANNED_BYTES
        self._tell(range(len(stack)) if small else self._likely())

    def _on_whole(self, event: Any = None) -> None:
        """Undo, redo, or other pixels: slices that were painted may be others now."""
        replaced = getattr(event, "type", "") == "data"
        self._tell(range(len(self._stack())) if replaced else self._likely())

    def _likely(self) -> set[int]:
        return {*self._known, self.hub.visible_z()}

    def _tell(self, zs: Iterable[int]) -> None:
        stack = self._stack()
        found = tuple(sorted(z for z in set(zs) if z < len(stack) and self._take(z, stack[z])))
        if found:
            self.painted.emit(found)

    def _take(self, z: int, pixels: npt.NDArray[Any]) -> bool:
        """Compare slice ``z`` with what is known of it and hand over what changed, if anything."""
        now = self._clean(pixels)
        known = self._known.get(z)
        changed = now != (0 if known is None else known)
        if not changed.any():
            return False
        self._known[z] = now
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        if self._image is not None and self._image == self.hub.live.state.image:
            self.hub.refine.paint(z, now[y0:y1, x0:x1], (y0, x0))
        return True


class _Slices:
    """A volume of which most slices are empty."""

    def __init__(
        self, known: dict[int, npt.NDArray[np.uint8]], empty: npt.NDArray[np.uint8], depth: int
    ) -> None:
        self._known, self._empty = dict(known), empty
        self.shape, self.dtype = (depth, *empty.shape), empty.dtype

    def __getitem__(self, z: int) -> npt.NDArray[np.uint8]:
        return self._known.get(z, self._empty)
