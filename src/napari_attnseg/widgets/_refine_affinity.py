"""Affinity of one pixel in the Refine dock: what it takes from each of its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.affinity_pixel import AffinityPixel
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import Section, button, hint
from napari_attnseg.widgets._refine_rose import TIP, AffinityRose, Weights, sums

if TYPE_CHECKING:
    from napari_attnseg.viewer.refine_work import RefineWork

EMPTY = "Which neighbours a pixel listens to. Press Ask a pixel, then click the image."


class AffinityPanel(QWidget):
    """Folded down to a button until a pixel is asked."""

    def __init__(self, work: RefineWork, complain: Any) -> None:
        super().__init__()
        self.work, self._complain = work, complain
        self.pixel = AffinityPixel(work)
        self.words = hint(EMPTY)
        self.words.setTextFormat(Qt.TextFormat.RichText)
        self.ask = button("Ask a pixel", "Shows a ring; a click on the image moves it")
        self.ask.setCheckable(True)
        self.rose = AffinityRose()
        self.rose.setToolTip(TIP)
        self.rose.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(Section("Affinity of a pixel", self.ask, self.rose, self.words))
        self.ask.toggled.connect(self._toggle)
        connect_alive(self, self.pixel.toggled, self._on_toggled)
        connect_alive(self, work.control.affinity_done, self._on_done)

    def _toggle(self, on: bool) -> None:
        if on == self.pixel.on:
            return
        try:
            self.pixel.start() if on else self.pixel.stop()
        except AttnSegError as error:
            self.ask.setChecked(False)
            self._complain(str(error))

    def _on_toggled(self, on: bool) -> None:
        self.ask.setChecked(on)
        if not on:
            self.rose.hide()
            self.rose.set_weights(None)
            self.words.setText(EMPTY)

    def _on_done(self, event: Any) -> None:
        if not self.pixel.on:
            return
        self.rose.set_weights(
            Weights(event.offsets, event.weights, event.residual, getattr(event, "centre", 0.0))
        )
        self.rose.show()
        plus, minus = sums(event.weights)
        own = f", itself <b>{event.centre:+.2f}</b>" if event.centre else ""
        self.words.setText(
            f"Row {event.y}, column {event.x} takes <b>{plus:+.2f}</b> and <b>{minus:+.2f}</b> "
            f"from its neighbours{own}, <b>{event.residual:+.2f}</b> from the coarse mask. "
            "Orange adds a neighbour's answer, blue subtracts it."
        )
