"""What is said before Run: doubts about the image, and one line on what the run will cost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QFrame, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_attnseg.control.handover import AT_ONCE_BYTES
from napari_attnseg.io.suitability import Doubt
from napari_attnseg.viewer.before_run import (
    Asking,
    chosen_source,
    cost_words,
    disk_words,
    doubts_about,
    memory_words,
)
from napari_attnseg.widgets._bridge import connect_alive, to_main_thread
from napari_attnseg.widgets._parts import hint

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

SETTLE_MS = 600
"""A choice is looked at this long after it was made: several come together."""
LOOK = """
#attnsegDoubts { border-left: 3px solid #d08a1c; background: rgba(208, 138, 28, 28); }
#attnsegDoubts QLabel { font-size: 11px; background: transparent; }
"""


class DoubtsBlock(QFrame):
    """Why this model may not suit this image: a quiet block, no room when there is nothing to say.

    Large images are looked at in a thread; an answer about an earlier choice is let go.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.doubts: list[Doubt] = []
        self._asked: object = None
        self.setObjectName("attnsegDoubts")
        self.setStyleSheet(LOOK)
        self.setToolTip("Run works all the same; look twice at what comes out")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 5, 6, 5)
        box.addWidget(self.words)
        self.hide()
        connect_alive(self, hub.source_changed, lambda _: self.look())
        connect_alive(self, hub.model_changed, lambda _: self.look())
        self.look()

    def look(self) -> None:
        """Look at the chosen image and model."""
        ticket = self._asked = object()
        source, card = chosen_source(self.hub), self.hub.card
        if source is None or card is None:
            self._show([])
            return
        size = source.array.size * source.array.dtype.itemsize
        if size <= AT_ONCE_BYTES:
            self._show(doubts_about(source, card))
            return

        def work() -> None:
            try:
                found = doubts_about(source, card)
            except Exception:  # a lazy array may raise anything; Run will say what
                found = []
            to_main_thread(lambda: self._arrive(ticket, found))

        threading.Thread(target=work, name="attnseg-doubts", daemon=True).start()

    def _arrive(self, ticket: object, found: list[Doubt]) -> None:
        if ticket is self._asked:
            self._show(found)

    def _show(self, found: list[Doubt]) -> None:
        self.doubts = found
        grave = [d.sentence for d in found if d.severity != "note"]
        self.words.setText("\n".join(f"{s[0].upper()}{s[1:]}." for s in grave))
        self.setVisible(bool(grave))


class CostLine(QWidget):
    """One line above Run: memory, disk and time of a run over a volume, and what will not fit.

    The engine measures one slice for it, which the run then has already; of an image that would
    have to be copied first it gets that slice alone. Nothing is asked for single images, nor
    while the engine works.
    """

    said = Signal(str)

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self._owed = False
        self._asking = Asking(hub, to_main_thread)
        self._along = hub.live.state.along
        self.words = hint()
        self.words.setToolTip(
            "Measured on the visible slice: memory of the engine and of this window, scratch on "
            "disk, and time"
        )
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.words)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._ask)
        self.hide()
        for signal in (hub.source_changed, hub.model_changed, hub.device_changed):
            connect_alive(self, signal, lambda _: self.again())
        connect_alive(self, hub.live.busy_changed, self._on_busy)
        connect_alive(self, hub.live.state_changed, lambda _: self._look())
        connect_alive(self, hub.live.forecasted, self._on_forecast)
        connect_alive(self, hub.live.described, self._on_awake)
        self.again()

    def again(self) -> None:
        """Another choice: what was said is not about it."""
        self._owed = True
        self._asking.drop()
        self._say("")
        self._settle.start()

    def _look(self) -> None:
        """Slices along another axis cost something else."""
        if self.hub.live.state.along != self._along:
            self._along = self.hub.live.state.along
            self.again()

    def _on_awake(self, data: object) -> None:
        """The image was there before the engine: only now somebody can measure it."""
        if self._owed:
            self._settle.start()

    def _shape(self) -> tuple[int, int, int] | None:
        source = chosen_source(self.hub)
        if source is None or self.hub.card is None or source.array.shape[0] < 2:
            return None
        z, y, x = (int(n) for n in source.array.shape[:3])
        return z, y, x

    def _ask(self) -> None:
        shape = self._shape()
        if shape is None or self.hub.closed or self.hub.live.state.busy:
            return
        self._say(self._refusal(shape))
        if self.hub.client.pid is not None:
            self._owed = False
            self._asking.ask()

    def _refusal(self, shape: tuple[int, int, int]) -> str:
        free, gathering = self.hub.scratch.room_bytes, self.hub.live.gathering(shape)
        words = disk_words(shape, free, gathering)
        return f"{words[0].upper()}{words[1:]}." if words else ""

    def _on_forecast(self, event: Any) -> None:
        shape = self._shape()
        if shape is None or self.hub.live.state.busy:
            return
        short = self._refusal(shape) or memory_words(event)
        cost = cost_words(event, shape, self.hub.live.gathering(shape))
        self._say(f"{short[0].upper()}{short[1:]}" if short else cost)

    def clear(self) -> None:
        """Nothing is said."""
        self._say("")

    def _on_busy(self, busy: bool) -> None:
        if busy:
            self._owed = False  # the outcome will tell more
            self._asking.drop()
            self.clear()

    def _say(self, words: str) -> None:
        self.words.setText(words)
        self.setVisible(bool(words))
        self.said.emit(words)
