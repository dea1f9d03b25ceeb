"""Iterations of the Refine dock: how many, every one of them as layers, and how they settle."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.edit_watch import EditWatch
from napari_attnseg.viewer.refined import ATTENTION, CHANGE, MASK
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import Field, LayerCombo, Section, hint
from napari_attnseg.widgets._refine_curve import ConvergenceCurve
from napari_attnseg.widgets._sliders import TunableRow, make_row
from napari_attnseg.widgets._tune_foot import slice_words

if TYPE_CHECKING:
    from napari_attnseg.settings import Tunable
    from napari_attnseg.viewer.refine_work import RefineWork

STEPS_TIP = (
    "One layer with a slider of its own under the image (step 0 is the coarse mask), and one with "
    "the probability, hidden at first"
)
CHANGE_TIP = "What every step adds to the probability (orange) and takes from it (blue)"
ATTENTION_TIPS = {
    "centre": "How far the pixel keeps its own answer in every iteration",
    "ring 1": "Weight of the 8 next neighbours in every iteration, 0 to 1",
    "ring 2": "Weight of the 16 neighbours around them in every iteration, 0 to 1",
    "ring 3": "Weight of the 24 outer neighbours in every iteration, 0 to 1",
}


class StepsPanel(QWidget):
    """Slider, step layers, curve and reference.

    ``moved``: another number of iterations; ``rested``: the hand is off the slider; ``asked``:
    steps are wanted now.
    """

    moved = Signal()
    rested = Signal()
    asked = Signal()

    def __init__(self, work: RefineWork, complain: Any) -> None:
        super().__init__()
        self.work, self._complain = work, complain
        self.row: TunableRow | None = None
        self._row_box = QVBoxLayout()
        self.boxes: dict[str, QCheckBox] = {}
        self.attention = QWidget()
        self.curve = ConvergenceCurve()
        self.reference = LayerCombo(work.hub.viewer, ("labels",), optional="none")
        self._watched = EditWatch()
        self._lay_out()
        self._listen()
        self.follow()

    def _lay_out(self) -> None:
        self._row_box.setContentsMargins(0, 0, 0, 0)
        every = self._box(MASK, "Show every iteration", STEPS_TIP)
        change = self._box(CHANGE, "Change from step to step", CHANGE_TIP)
        grid = QGridLayout(self.attention)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        grid.addWidget(hint("Attention of every iteration"), 0, 0, 1, 2)
        for i, what in enumerate(ATTENTION):
            words = what.removeprefix("attention ")
            grid.addWidget(
                self._box(what, words.capitalize(), ATTENTION_TIPS[words]), 1 + i // 2, i % 2
            )
        tip = "Labels to be compared with: Dice of every step joins the curve"
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        section = Section("Iterations")
        inner: Any = section.layout()
        inner.addLayout(self._row_box)
        for part in (every, change, self.attention, self.curve):
            inner.addWidget(part)
        inner.addWidget(Field("Reference", self.reference, tip))
        box.addWidget(section)

    def _box(self, what: str, words: str, tip: str) -> QCheckBox:
        made = QCheckBox(words)
        made.setToolTip(tip)
        made.toggled.connect(partial(self._on_ticked, what))
        self.boxes[what] = made
        return made

    def _listen(self) -> None:
        work = self.work
        self.curve.picked.connect(self._on_picked)
        self.reference.layer_changed.connect(self._on_reference)
        connect_alive(self, self._watched.edited, self._on_edited)
        connect_alive(self, work.chosen, self.follow)
        connect_alive(self, work.changed, self._show_ticks)
        connect_alive(self, work.stepped, self._on_stepped)
        connect_alive(self, work.shown.scrubbed, self.curve.set_step)
        connect_alive(self, work.hub.slice_changed, lambda _: self.curve.clear())
        connect_alive(self, work.hub.source_changed, lambda _: self.curve.clear())

    # --- following ------------------------------------------------------------------------------

    def follow(self) -> None:
        """The slider of the chosen refinement, and what it can show."""
        tunable = self.work.iterations
        if self.row is None or self.row.tunable != tunable:
            self._rebuild(tunable)
        if self.row is not None:
            self.row.set_value(self.work.control.state.iterations)
        self.attention.setVisible(self.work.dynamic)
        if not self.work.dynamic:
            for what in ATTENTION:
                self.work.shown.unwant(what)
        self.curve.clear()
        self._show_ticks()

    def _rebuild(self, tunable: Tunable | None) -> None:
        if self.row is not None:
            self._row_box.removeWidget(self.row)
            self.row.hide()
            self.row.deleteLater()
            self.row = None
        if tunable is not None:
            self.row = make_row(tunable, self)
            self.row.set_trained(tunable.default)
            self.row.moved.connect(self._on_moved)
            self.row.released.connect(lambda *_: self.rested.emit())
            self._row_box.addWidget(self.row)

    def _show_ticks(self) -> None:
        for what, box in self.boxes.items():
            box.setEnabled(self.work.card is not None)
            with QSignalBlocker(box):
                box.setChecked(what in self.work.shown.wanted)
        layers = self.work.shown.layers
        if layers is None or layers.axis < 0:
            self.curve.set_step(self.curve.plot.last)  # that is what the mask shows

    def _on_stepped(self, event: Any) -> None:
        place = slice_words(self.work.hub, event.z).capitalize()
        self.curve.show_event(event.changed, event.movement, event.dice, place)
        layers = self.work.shown.layers
        self.curve.set_step(layers.step if layers is not None else self.curve.plot.last)

    # --- what a person can do -------------------------------------------------------------------

    def _on_moved(self, name: str, value: Any) -> None:
        self.work.set_values(iterations=round(float(value)))
        self.moved.emit()

    def _on_ticked(self, what: str, on: bool) -> None:
        try:
            self.work.show(what, on)
        except AttnSegError as error:
            self.work.shown.unwant(what)
            self._complain(str(error))
        self._show_ticks()

    def _on_picked(self, step: int) -> None:
        """A step pressed in the curve is seen: the layers come if they are not there."""
        layers = self.work.shown.layers
        if layers is not None and layers.axis >= 0:
            layers.go(step)
        else:
            self.work.shown.start = step
            self.boxes[MASK].setChecked(True)

    def _on_reference(self, layer: Any) -> None:
        try:
            self.work.set_reference(layer)
        except AttnSegError as error:
            self._complain(str(error))
            with QSignalBlocker(self.reference):
                self.reference.setCurrentIndex(0)
            layer = None
            self.work.set_reference(None)
        self._watched.follow(layer)
        self.asked.emit()

    def _on_edited(self, event: Any = None) -> None:
        self.work.set_reference(self._watched.layer)  # type: ignore[arg-type]
        self.asked.emit()
