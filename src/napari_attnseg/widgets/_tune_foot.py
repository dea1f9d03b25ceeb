"""What stays in sight under the Tune dock: progress of the volume and the last answer's figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._foot import WorkLine
from napari_attnseg.widgets._parts import hint

if TYPE_CHECKING:
    from napari_attnseg.control.messages import Retuned
    from napari_attnseg.viewer.hub import Hub

UNCOUNTED = "painted pixels are not counted"


def slice_words(hub: Hub, z: int) -> str:
    """``"slice 17"`` of a volume, counted from 0 as napari does; ``"image"`` of a 2D image."""
    depth = hub.live.state.shape[0]
    return "image" if depth <= 1 else f"slice {z}"


def painted_in(hub: Hub, z: int) -> int:
    """Pixels of slice ``z`` that a person painted: they are in the labels, not in figures."""
    results = hub.results
    edits = results.edits if results is not None else None
    return int(edits.mask(z).sum()) if edits is not None and z < edits.shape[0] else 0


class AnswerLine(QWidget):
    """``"slice 17: 887 px in 12 ms"``: area by the model's own answer, and how long it took."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.words = hint()
        self.work = WorkLine(hub, keep=False)
        self._asked_at = self._newest = 0.0
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.work)
        box.addWidget(self.words)
        for changed in (hub.slice_changed, hub.source_changed, hub.model_changed):
            connect_alive(self, changed, lambda _: self.forget())
        self.forget()

    def asked(self) -> None:
        """A value was moved: the time runs until the next answer."""
        self._newest = time.perf_counter()
        self._asked_at = self._asked_at or self._newest

    def answered(self, event: Retuned) -> float:
        """Show an answer to a moved value; ms that it took, 0 when nothing had been moved."""
        if not self._asked_at:
            return 0.0
        took = (time.perf_counter() - self._asked_at) * 1000.0
        # of a drag only the newest value is asked for next: its figures are the ones that stay
        self._asked_at = self._newest if self.hub.live.answering else 0.0
        painted = painted_in(self.hub, event.z)
        less = f" (+ {painted:,} painted)" if painted else ""
        less += " (live in one window)" * bool(event.window)
        self._say(f"{slice_words(self.hub, event.z)}: {event.area:,} px{less} in {took:.0f} ms")
        stages = " → ".join(event.woken) or "none, all was known"
        self.words.setToolTip(
            f"Foreground of the model's own answer; {UNCOUNTED}.\n"
            + f"Live, a 3D model answers in one window: {event.window}.\n" * bool(event.window)
            + f"Stages that ran: {stages}. "
            f"In the engine: {event.seconds * 1000:.0f} ms."
        )
        return took

    def forget(self) -> None:
        """The figures belong to another slice, image or model."""
        self._asked_at = 0.0
        self._say("")

    def _say(self, words: str) -> None:
        self.words.setText(words[:1].upper() + words[1:])
        self.words.setVisible(bool(words))

    def place_words(self, z: Any) -> str:
        """Which mask the curves speak of, for the readout under the plot."""
        painted = painted_in(self.hub, int(z))
        less = f"; {painted:,} {UNCOUNTED}" if painted else ""
        return f"{slice_words(self.hub, int(z))}, the model's own mask{less}"
