"""Strokes of the Refine dock: pixels that are held while the mask follows the brush."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QGridLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.settings import Tunable
from napari_attnseg.viewer import strokes
from napari_attnseg.viewer.strokes import class_color
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import LayerCombo, Section, button, hint, later, row
from napari_attnseg.widgets._sliders import FloatRow

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

    from napari_attnseg.viewer.refine_work import RefineWork

STRENGTH = Tunable(
    "strength",
    "float",
    1.0,
    "gate",
    "1 holds what is painted exactly, 0 ignores it, values between pull the mask towards it",
    0.0,
    1.0,
)
EMPTY = (
    "Paint where the mask is wrong: what you paint is held, and the mask changes around it and "
    "wherever the slice looks alike. Press New strokes to begin."
)
CARRY_TIP = (
    "Strokes also reach so many slices above and below, as far as the image between them is alike"
)


class StrokesPanel(QWidget):
    """Layer, brush, strength, carry, clear. ``moved``: the mask is another one; ``rested``: the
    hand is off a slider."""

    moved = Signal()
    rested = Signal()

    def __init__(self, work: RefineWork, complain: Any) -> None:
        super().__init__()
        self.work, self.hub, self._complain = work, work.hub, complain
        self.layer = LayerCombo(self.hub.viewer, ("labels",), optional="none yet")
        self.new = button("New strokes", "An empty labels layer over the image, the brush in hand")
        self.clear = button("Clear strokes", "Take all strokes away (Ctrl+Z brings them back)")
        self.words = hint(EMPTY)
        self.brushes: list[QPushButton] = []
        self.brush_box = QWidget()
        self.brush_grid = QGridLayout(self.brush_box)
        self.strength = FloatRow(STRENGTH)
        self.carry = QSpinBox()
        self.carry_row = self._make_carry()
        self._watched: Any = None
        self._lay_out()
        self._listen()
        self.layer.choose(work.watch.layer)
        self._on_model()
        self._on_source()

    def _make_carry(self) -> QWidget:
        self.carry.setRange(0, 20)
        self.carry.setToolTip(CARRY_TIP)
        self.carry.setFixedWidth(76)
        words = QLabel("Carry to slices around")
        words.setToolTip(CARRY_TIP)
        words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        return row(words, self.carry, stretch=0)

    def _lay_out(self) -> None:
        self.brush_grid.setContentsMargins(0, 0, 0, 0)
        self.brush_grid.setSpacing(3)
        parts = (self.words, row(self.layer, self.new), self.brush_box)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(Section("Strokes", *parts, self.strength, self.carry_row, self.clear))

    def _listen(self) -> None:
        work = self.work
        self.new.clicked.connect(lambda: self.new_strokes())
        self.clear.clicked.connect(work.watch.clear)
        self.layer.layer_changed.connect(self._on_layer)
        self.strength.moved.connect(self._on_strength)
        self.strength.released.connect(lambda *_: self.rested.emit())
        self.carry.valueChanged.connect(self._on_carry)
        connect_alive(self, work.painted, self._count_soon)
        connect_alive(self, work.chosen, self._on_model)
        connect_alive(self, work.hub.source_changed, lambda _: self._on_source())
        connect_alive(self, work.watch.odd, self._on_odd)

    # --- what a person can do -------------------------------------------------------------------

    def new_strokes(self) -> Labels | None:
        """Make a strokes layer over the chosen image and hand over the brush."""
        try:
            if self.hub.source is None:
                raise InputError(
                    "there is no image to paint on; open one, or choose File > Open Sample"
                )
            names = self.work.class_names
            layer = strokes.new_strokes(self.hub.viewer, self.hub.source, names)
        except InputError as error:
            self._complain(str(error))
            return None
        self.layer.choose(layer)
        return layer

    def pick(self, label: int) -> None:
        """Paint with ``label`` (1 background, 2 the first class, ...; 0 erases)."""
        layer = self.work.watch.layer
        if layer is None:
            layer = self.new_strokes()
        if layer is not None and layer in self.hub.viewer.layers:
            strokes.hold_brush(self.hub.viewer, layer, label)
        self._show_brush()

    def _on_strength(self, name: str, value: Any) -> None:
        self.work.set_values(strength=float(value))
        self.moved.emit()

    def _on_carry(self, slices: int) -> None:
        self.work.set_values(carry=slices)
        self.moved.emit()
        self.rested.emit()

    # --- following ------------------------------------------------------------------------------

    def _on_layer(self, layer: Layer | None) -> None:
        try:
            self.work.watch.follow(layer, len(self.work.class_names) - 1)  # type: ignore[arg-type]
        except AttnSegError as error:
            self._complain(str(error))
            with QSignalBlocker(self.layer):
                self.layer.setCurrentIndex(0)
            layer = None
            self.work.watch.follow(None)
        self._watch(layer)
        self.work.hand_over_again()
        self._count()
        self._show_brush()
        if self.work.begun or self.work.watch.pixels:
            self.moved.emit()

    def _watch(self, layer: Any) -> None:
        for watched, on in ((self._watched, False), (layer, True)):
            for name in ("selected_label", "mode") if watched is not None else ():
                event = getattr(watched.events, name)
                event.connect(self._show_brush) if on else event.disconnect(self._show_brush)
        self._watched = layer

    def _on_model(self) -> None:
        """One brush per class of the refinement."""
        for made in self.brushes:
            self.brush_grid.removeWidget(made)
            made.hide()
            made.deleteLater()
        names = self.work.class_names
        self.brushes = [self._brush(0, "eraser", "")]
        self.brushes += [self._brush(i + 1, n, class_color(i)) for i, n in enumerate(names)]
        for i, made in enumerate([*self.brushes[1:], self.brushes[0]]):
            self.brush_grid.addWidget(made, i // 2, i % 2)
        layer = self.work.watch.layer
        if layer is not None:
            self.work.watch.follow(layer, len(names) - 1)
            if strokes.is_strokes(layer):
                strokes.recolor(layer, names)
        self._show_state()
        self._show_brush()

    def _show_state(self) -> None:
        """Layer and values as they are, whoever has set them (a restored session)."""
        state, layer = self.work.control.state, self.work.watch.layer
        with QSignalBlocker(self.layer), QSignalBlocker(self.carry):
            self.layer.choose(layer)
            self.carry.setValue(state.carry)
        if self.strength.value() != state.strength:
            self.strength.set_value(state.strength)
        if layer is not self._watched:
            self._watch(layer)
            self._count()

    def _brush(self, label: int, name: str, color: str) -> QPushButton:
        made = QPushButton(name)
        made.setCheckable(True)
        made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        made.setStyleSheet("text-align: left; padding: 2px 6px;")
        made.setToolTip(f"Paint {name} (label {label})" if label else "Erase strokes")
        picture = QPixmap(14, 14)
        picture.fill(QColor(color) if color else QColor(0, 0, 0, 0))
        if color:
            made.setIcon(QIcon(picture))
        made.clicked.connect(partial(self.pick, label))
        return made

    def _show_brush(self, event: Any = None) -> None:
        layer = self.work.watch.layer
        held = layer is not None and str(getattr(layer.mode, "value", layer.mode)) not in (
            "pan_zoom",
            "transform",
            "pick",
        )
        erasing = layer is not None and str(layer.mode) == "erase"
        chosen = (0 if erasing else int(layer.selected_label)) if held and layer else None
        for label, made in enumerate(self.brushes):
            made.setChecked(label == chosen)

    def _on_source(self) -> None:
        self.carry_row.setVisible(self.work.depth > 1)
        layer = self.work.watch.layer
        with QSignalBlocker(self.layer):
            self.layer.choose(layer) if layer is not None else self.layer.setCurrentIndex(0)
        self._count()

    def _on_odd(self, label: int) -> None:
        top = len(self.work.class_names)
        self._complain(
            f"label {label} of the strokes is no class: 1 is background, 2 to {top} are "
            f"{', '.join(self.work.class_names[1:])}; its pixels count as not painted"
        )

    def _count_soon(self) -> None:
        later(self, 150, self._count)

    def _count(self) -> None:
        layer, pixels = self.work.watch.layer, self.work.watch.pixels
        self.clear.setEnabled(pixels > 0)
        for part in (self.brush_box, self.strength, self.carry_row, self.clear):
            part.setVisible(layer is not None)
        self.carry_row.setVisible(layer is not None and self.work.depth > 1)
        words = EMPTY
        if layer is not None:
            words = "Paint on the image; the mask follows the brush."
        if pixels:
            words = f"{pixels:,} painted {'pixel is' if pixels == 1 else 'pixels are'} held."
        if self.words.text() != words:
            self.words.setText(words)
