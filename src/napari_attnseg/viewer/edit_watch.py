"""Whether the pixels of a layer changed: painted, replaced, taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal

if TYPE_CHECKING:
    from napari.layers import Layer

_EDITS = ("data", "paint", "labels_update")


class EditWatch:
    """Follows one layer, labels or image.

    napari tells undo and redo only by ``set_data``, as it does every scroll and redraw; the
    lengths of the history say which it was.
    """

    edited = Signal()

    def __init__(self) -> None:
        self.layer: Layer | None = None
        self._history = (0, 0)

    def follow(self, layer: Layer | None) -> None:
        """Follow another layer, or none."""
        self._connect(False)
        self.layer = layer
        self._history = self._lengths()
        self._connect(True)

    def _connect(self, on: bool) -> None:
        if self.layer is None:
            return
        told = dict.fromkeys(_EDITS, self._on_edit) | {"set_data": self._on_drawn}
        for name, call in told.items():
            event = getattr(self.layer.events, name, None)  # an image has no paint
            if event is not None:
                event.connect(call) if on else event.disconnect(call)

    def _lengths(self) -> tuple[int, int]:
        undo, redo = (getattr(self.layer, f"_{way}_history", ()) for way in ("undo", "redo"))
        return len(undo), len(redo)

    def _on_edit(self, event: Any = None) -> None:
        self._history = self._lengths()
        self.edited.emit()

    def _on_drawn(self, event: Any = None) -> None:
        if self._lengths() != self._history:
            self._on_edit()
