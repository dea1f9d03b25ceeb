"""The Tune dock: move what the network itself compares with, and see the mask follow."""

from __future__ import annotations

from functools import partial
from typing import Any

import napari.viewer
import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QButtonGroup, QPushButton, QVBoxLayout, QWidget

from napari_attnseg.control.messages import Fingerprinted, Retuned
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.settings import CUT, Tunable, Tuning
from napari_attnseg.viewer.former import former_for
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._compare import ComparePanel
from napari_attnseg.widgets._foot import LEAST_WIDTH, with_foot
from napari_attnseg.widgets._levels import LevelsPanel
from napari_attnseg.widgets._maps import MapsPanel
from napari_attnseg.widgets._parts import Section, behind, button, hint, row, settle_layouts
from napari_attnseg.widgets._plots import Fingerprint
from napari_attnseg.widgets._reference import ReferencePanel
from napari_attnseg.widgets._scale import Kind
from napari_attnseg.widgets._sliders import FloatRow, TunableRow, make_row, tunables_of
from napari_attnseg.widgets._tune_foot import AnswerLine
from napari_attnseg.widgets.diagnose import ErrorBar

HOLD_MS = 100
"""How long the dock's own repaint waits for the answer, to share its frame: with OpenGL every
frame composes the whole window, which costs more than the answer itself. Where answers take
longer it does not wait."""
CURVES_AFTER_MS = 250
"""The curves follow when values and slices have rested for this long."""


class TuneWidget(QWidget):
    """Sliders made from the model's tunables, with every threshold's outcome behind them."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.rows: dict[str, TunableRow] = {}
        self.curves: Fingerprinted | None = None
        self._step: NDArray[np.float32] = np.zeros(0, np.float32)
        self._moving = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(CURVES_AFTER_MS)
        self._timer.timeout.connect(self.ask_curves)
        self._hold = QTimer(self)
        self._hold.setSingleShot(True)
        self._hold.setInterval(HOLD_MS)
        self._hold.timeout.connect(self._paint_again)
        self._build(napari_viewer)
        self._connect()
        self._on_model(self.hub.checkpoint)
        if self.hub.live.state.results is not None:
            self.follow_up()

    # --- building -----------------------------------------------------------------------------

    def _build(self, viewer: napari.viewer.Viewer) -> None:
        self.title = hint()
        self.error = ErrorBar(self)
        self.begin = button(
            "Analyse this slice", "Segment the visible slice and draw the curves of every threshold"
        )
        self.begin.clicked.connect(self.analyse)
        self.fingerprint = Fingerprint(self)
        self.scale_buttons = self._make_scale_buttons()
        self.over = hint()
        self.over.setToolTip("Cells of the attention grid whose step is above the threshold")
        self.row_box = QVBoxLayout()
        self.row_box.setSpacing(4)
        self.reset = button("Reset to trained", "Put every value back to the checkpoint's own")
        self.reset.clicked.connect(self.reset_to_trained)
        self.answer = AnswerLine(self.hub)
        self.compare = ComparePanel(self.hub, self)
        self.references = ReferencePanel(viewer)
        self.reference = self.references.combo
        self.maps = MapsPanel(self.hub, lambda: self._step, self)
        self.maps.hide()
        self.levels = LevelsPanel(self.hub, self)
        self.maps_button = QPushButton("▸  Attention maps, 2D and 3D")
        self.maps_button.setToolTip("Heat maps, reliefs and scatters of the attention")
        self.maps_button.setCheckable(True)
        self.maps_button.setStyleSheet("text-align: left; padding: 4px 6px;")
        self.maps_button.toggled.connect(self._on_fold)
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 6, 8, 8)
        box.setSpacing(5)
        box.addWidget(self.title)
        box.addWidget(self.fingerprint)
        box.addLayout(self.row_box)
        self.compare_section = Section("Against plain attention", self.compare)
        rest: list[QWidget] = [
            self.compare_section,
            self.levels,
            self.references,
            self.maps_button,
            self.maps,
        ]
        for part in rest:
            box.addWidget(part)
        box.addStretch(1)
        with_foot(self, content, self.error, self.begin, self.answer, self.reset)
        self.setMinimumWidth(LEAST_WIDTH)

    def _make_scale_buttons(self) -> QWidget:
        chosen = str(recall("threshold_scale", "linear"))
        self.kind: Kind = "quantile" if chosen == "quantile" else "linear"
        tips: dict[Kind, str] = {
            "linear": "The slider runs along the threshold's value",
            "quantile": "The slider runs along the quantiles of step: every millimetre closes the "
            "gate for equally many cells",
        }
        self.kind_buttons = {kind: button(kind, tip) for kind, tip in tips.items()}
        group = QButtonGroup(self)
        for kind, made in self.kind_buttons.items():
            made.setCheckable(True)
            made.setChecked(kind == self.kind)
            made.setStyleSheet("padding: 1px 3px; font-size: 11px;")
            made.clicked.connect(partial(self.set_kind, kind))
            group.addButton(made)
        return row(*self.kind_buttons.values(), stretch=-1)

    def _connect(self) -> None:
        hub, live = self.hub, self.hub.live
        self.fingerprint.plot.moved.connect(lambda t: self._on_moved("threshold", t))
        self.fingerprint.plot.released.connect(lambda t: self._on_released("threshold", t))
        self.references.chosen.connect(self._on_reference)
        self.references.edited.connect(self.follow_up)
        connect_alive(self, hub.model_changed, self._on_model)
        connect_alive(self, hub.source_changed, self._on_source)
        connect_alive(self, hub.slice_changed, self._on_slice)
        for part in (self.maps, self.compare, self.levels):
            part.failed.connect(self.error.show_error)
        connect_alive(self, live.state_changed, self._on_state)
        connect_alive(self, live.retuned, self._on_retuned)
        connect_alive(self, live.slice_done, self._on_slice_done)
        connect_alive(self, live.fingerprinted, self._on_fingerprinted)
        connect_alive(self, live.failed, self._on_failed)
        connect_alive(self, former_for(hub).hidden, self.error.show_note)
        connect_alive(self, live.engine_lost, self.error.show_error)

    def _on_fold(self, opened: bool) -> None:
        self.maps.setVisible(opened)
        self.maps_button.setText(("▾" if opened else "▸") + "  Attention maps, 2D and 3D")

    # --- what a person can do -----------------------------------------------------------------

    def analyse(self) -> None:
        """Segment the visible slice at the present values and ask for the curves."""

        def begin() -> None:
            if not isalive(self):  # closed while a large image was on its way
                return
            self.error.clear()
            self.hub.live.refresh()
            self.ask_curves()

        self._try(self.hub.bring, then=begin)

    def set_kind(self, kind: Kind, *_: Any) -> None:
        """Let the threshold slider run along values (``linear``) or ``quantile``."""
        self.kind = kind
        self.kind_buttons[kind].setChecked(True)
        remember("threshold_scale", kind)
        self._show_curves()

    def reset_to_trained(self) -> None:
        """Every value back to the card's."""
        card = self.hub.card
        if card is None:
            return
        for name, tuned in self.rows.items():
            tuned.set_value(card.tuning.get(name, tuned.tunable.default))
        self._send(**{name: tuned.value() for name, tuned in self.rows.items()})
        self.follow_up()
        self.hub.live.release()

    def ask_curves(self) -> None:
        """Ask for the fingerprint of the visible slice, unless a hand is on a slider."""
        if self._moving:
            self._timer.start()
            return
        if behind(self):  # they are drawn when the dock comes to the front
            return
        if "threshold" not in self.rows or not self.hub.at_hand:
            return
        if not self._try(self.hub.prepare):
            return
        reference = None
        try:
            reference = self.references.slice(self.hub.live.state.shape, self.hub.visible_z())
        except InputError as error:
            self.error.show_error(str(error))
        self.hub.live.request_fingerprint(reference)

    def showEvent(self, event: Any) -> None:
        """Whatever came while the dock was behind another one is drawn now."""
        super().showEvent(event)
        if self.hub.live.state.results is not None:
            self.follow_up()

    def follow_up(self) -> None:
        """Curves soon: once values and slices have come to rest."""
        self._timer.start()

    # --- the model and the image --------------------------------------------------------------

    def _on_model(self, checkpoint: str) -> None:
        self.curves, self._step = None, np.zeros(0, np.float32)
        for part in (self.scale_buttons, self.over):  # they sit in the old threshold row
            part.setParent(self)
            part.hide()
        for old in self.rows.values():
            self.row_box.removeWidget(old)
            old.hide()
            old.deleteLater()
        self.rows = {}
        card = self.hub.card if checkpoint else None
        if card is not None:
            for tunable in [*tunables_of(card), CUT]:
                self._add_row(tunable, card.tuning)
        has_threshold = "threshold" in self.rows
        for shown in (self.fingerprint, self.compare_section, self.maps_button):
            shown.setVisible(has_threshold)
        self._show_curves()
        self._say()

    def _add_row(self, tunable: Tunable, trained: Tuning) -> None:
        made = make_row(tunable, self)
        made.set_trained(trained.get(tunable.name, tunable.default))
        made.set_value(self.hub.tuning.get(tunable.name, made.trained))
        made.moved.connect(self._on_moved)
        made.released.connect(self._on_released)
        self.rows[tunable.name] = made
        self.row_box.addWidget(made)
        if tunable.name == "threshold":
            made.grid.addWidget(self.scale_buttons, 0, 1)
            made.grid.addWidget(self.over, 2, 0, 1, 4)
            self.scale_buttons.show()
            self.over.show()

    def _on_source(self, layer: Any) -> None:
        self.curves = None
        self._step = np.zeros(0, np.float32)
        self._show_curves()
        self._say()

    def _on_slice(self, z: int) -> None:
        self.fingerprint.forget()  # its figures are the former slice's
        if self.hub.live.state.results is not None:
            self.follow_up()

    def _on_state(self, state: Any) -> None:
        """Somebody else moved a value: show it."""
        if self._moving:
            return
        for name, shown in self.rows.items():
            value = state.tuning.get(name)
            if value is not None and value != shown.value():
                shown.set_value(value)
                if name == "threshold":
                    self._show_threshold(float(value))

    def _say(self) -> None:
        source, card = self.hub.source, self.hub.card
        known = self.hub.live.state.results is not None
        if source is None:
            words = "<b>No image yet.</b> Open one, or choose File &gt; Open Sample."
        elif card is None:
            words = "<b>No model yet.</b> Choose one in the Segment dock."
        else:
            name = card.title or self.hub.checkpoint
            words = f"<b>{source.name}</b> by <b>{name}</b>"
        self.title.setTextFormat(Qt.TextFormat.RichText)
        self.title.setText(words)
        self.begin.setVisible(source is not None and card is not None and not known)
        for part in (self.reset, self.compare, self.maps, *self.rows.values()):
            part.setEnabled(source is not None and card is not None)

    # --- values moving ------------------------------------------------------------------------

    def _on_moved(self, name: str, value: Any) -> None:
        self._moving = True
        if self.hub.live.state.results is not None:
            self._wait_to_paint()
        if name == "threshold":
            self._show_threshold(float(value))
        self._send(**{name: value})

    def _wait_to_paint(self) -> None:
        if not self._hold.isActive():
            self._hold.start()
            self.setUpdatesEnabled(False)

    def _paint_again(self) -> None:
        """One frame shows the dock and the answer."""
        self._hold.stop()
        if not self.updatesEnabled():
            settle_layouts()
            self.setUpdatesEnabled(True)

    def _on_released(self, name: str, value: Any) -> None:
        self._moving = False
        self.hub.live.release()
        if name != "threshold":
            self.follow_up()  # the curves hold for every threshold, not for every other value

    def _send(self, **values: Any) -> None:
        if self.hub.source is None or self.hub.card is None:
            return
        self.answer.asked()
        self._try(self.hub.tune, **values)

    def _show_threshold(self, threshold: float) -> None:
        """Slider, line, readout and count, whoever moved."""
        shown = self.rows.get("threshold")
        if shown is None:
            return
        if shown.value() != threshold:
            shown.set_value(threshold)
        self.fingerprint.plot.set_threshold(threshold)
        self.fingerprint.show_values(threshold)
        self._show_over(self.fingerprint.plot.scale_now.over(threshold), self._step.size)

    def _show_over(self, over: int, cells: int) -> None:
        share = f" ({over / cells:.0%})" if cells else ""
        words = f"<b>{over:,}</b> of {cells:,} cells over the threshold{share}"
        self.over.setText(words if cells else "")

    # --- answers ------------------------------------------------------------------------------

    def _on_retuned(self, event: Retuned, labels: Any, probability: Any, plain: Any) -> None:
        took = self.answer.answered(event)
        if took:  # an answer to a moved value, not to a comparison
            self._hold.setInterval(HOLD_MS if took < 1.5 * HOLD_MS else 0)
        if not self._step.size:
            self._show_over(event.over, event.cells)
        self._say_once()
        self._paint_again()

    def _on_slice_done(self, event: Any) -> None:
        self._say_once()
        known = self.curves is not None and self.curves.z == event.z
        if event.z == self.hub.live.state.z and not known:
            self.follow_up()

    def _say_once(self) -> None:
        if not self.begin.isHidden():
            self._say()

    def _on_fingerprinted(self, event: Fingerprinted) -> None:
        if event.z != self.hub.visible_z():
            return
        self.curves = event
        self._step = np.asarray(event.step, dtype=np.float32)
        self._show_curves()
        self._say_once()
        settle_layouts()

    def _show_curves(self) -> None:
        shown = self.rows.get("threshold")
        if not isinstance(shown, FloatRow):
            return
        trained = float(shown.trained)
        place = self.answer.place_words(self.curves.z) if self.curves else ""
        self.fingerprint.set_data(self._step, self.curves, self.kind, trained, place)
        shown.set_scale(self.fingerprint.plot.scale_now)
        self._show_threshold(float(shown.value()))

    def _on_failed(self, event: Any) -> None:
        self.error.show_error(event.message, event.report)

    # --- reference ----------------------------------------------------------------------------

    def _on_reference(self) -> None:
        self.error.clear()
        if self.hub.live.state.results is not None:
            self.follow_up()

    def _try(self, call: Any, **values: Any) -> bool:
        try:
            call(**values)
        except AttnSegError as error:
            self.error.show_error(str(error))
            return False
        return True
