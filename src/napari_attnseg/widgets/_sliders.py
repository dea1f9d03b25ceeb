"""One row per tunable: its name, a slider with a tick at the trained value, its number."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPainter, QPolygonF
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyleOptionSlider,
    QToolButton,
    QWidget,
)
from superqt import QDoubleSlider

from napari_attnseg.cards import Card
from napari_attnseg.settings import PLAIN_THRESHOLD, Tunable, TunableValue
from napari_attnseg.widgets._plots import inks
from napari_attnseg.widgets._scale import StepScale

SETTLE_MS = 350
"""Typing, wheel and arrow keys have no release: this long without a move counts as one."""


class TickedSlider(QDoubleSlider):
    """A slider over [0, 1] with a small triangle at the trained position."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self.setRange(0.0, 1.0)
        self.setSingleStep(0.01)
        self.setPageStep(0.05)
        self.setMinimumWidth(60)
        self.setMinimumHeight(24)
        self._tick: float | None = None

    def set_tick(self, position: float | None) -> None:
        """Where the trained value lies, or None for no tick."""
        self._tick = position
        self.update()

    def handle_x(self, position: float) -> float:
        """Pixel column of the handle's middle when the slider stands at ``position``."""
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        style, complex_ = self.style(), QStyle.ComplexControl.CC_Slider
        part = QStyle.SubControl
        groove = style.subControlRect(complex_, option, part.SC_SliderGroove, self)
        handle = style.subControlRect(complex_, option, part.SC_SliderHandle, self)
        span = groove.width() - handle.width()
        return float(groove.x() + handle.width() / 2.0 + position * span)

    def keyPressEvent(self, event: Any) -> None:
        """Arrows, page keys, Home and End (the base class knows no keys)."""
        key, single, page = Qt.Key, self.singleStep(), self.pageStep()
        by = {key.Key_Right: single, key.Key_Up: single, key.Key_PageUp: page}
        by |= {key.Key_Left: -single, key.Key_Down: -single, key.Key_PageDown: -page}
        ends = {key.Key_Home: self.minimum(), key.Key_End: self.maximum()}
        if event.key() in ends:
            self.setValue(ends[event.key()])
        elif event.key() in by:
            self.setValue(self.value() + by[event.key()])
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: Any) -> None:
        """Draw the slider, then the tick under the groove."""
        super().paintEvent(event)
        if self._tick is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(inks(self).text))
        x, bottom = self.handle_x(self._tick), float(self.height())
        points = [QPointF(x, bottom - 6), QPointF(x - 4, bottom), QPointF(x + 4, bottom)]
        painter.drawPolygon(QPolygonF(points))
        painter.end()


class TunableRow(QWidget):
    """Base of both rows. ``moved`` while a value moves, ``released`` when it rests."""

    moved = Signal(str, object)
    released = Signal(str, object)

    def __init__(self, tunable: Tunable, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tunable = tunable
        self.trained: TunableValue = tunable.default
        self.name_label = QLabel(tunable.name, self)
        self.name_label.setToolTip(tunable.doc)
        self.reset_button = QToolButton(self)
        self.reset_button.setText("↺")
        self.reset_button.setAutoRaise(True)
        self.reset_button.setFixedWidth(22)
        policy = self.reset_button.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.reset_button.setSizePolicy(policy)
        self.reset_button.clicked.connect(self._on_reset)
        self.grid = QGridLayout(self)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setHorizontalSpacing(4)
        self.grid.addWidget(self.name_label, 0, 0)
        self.grid.setColumnMinimumWidth(0, 58)  # names in line; a longer one is never cut
        self.grid.addWidget(self.reset_button, 0, 3)

    def value(self) -> TunableValue:
        """The value shown."""
        raise NotImplementedError

    def set_value(self, value: TunableValue) -> None:
        """Show another value without a signal."""
        raise NotImplementedError

    def set_trained(self, value: TunableValue) -> None:
        """Say which value the model was trained with."""
        self.trained = value
        self.reset_button.setToolTip(f"Back to the trained value ({_short(value)})")
        self._mark()

    def _mark(self) -> None:
        self.reset_button.setVisible(_short(self.value()) != _short(self.trained))

    def _on_reset(self) -> None:
        self.set_value(self.trained)
        self.moved.emit(self.tunable.name, self.trained)
        self.released.emit(self.tunable.name, self.trained)


class FloatRow(TunableRow):
    """A float tunable: slider and number move together; the number may leave the slider."""

    def __init__(self, tunable: Tunable, parent: QWidget | None = None) -> None:
        super().__init__(tunable, parent)
        self._value = float(tunable.default)
        self._scale: StepScale | None = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._emit_released)
        self.slider = TickedSlider(self)
        self.slider.setToolTip(tunable.doc)
        self.spin = self._make_spin(tunable)
        if tunable.name == "threshold":  # full width, in line with the plot above it
            self.grid.addWidget(self.slider, 1, 0, 1, 4)
        else:
            self.grid.addWidget(self.slider, 0, 1)
        self.grid.addWidget(self.spin, 0, 2)
        self.grid.setColumnStretch(1, 1)
        self.slider.valueChanged.connect(self._on_slider)
        self.slider.sliderPressed.connect(self._settle.stop)  # the press alone has moved it
        self.slider.sliderReleased.connect(self._emit_released)
        self.spin.valueChanged.connect(self._on_spin)
        self.set_value(float(tunable.default))
        self.set_trained(tunable.default)

    def _make_spin(self, tunable: Tunable) -> QDoubleSpinBox:
        spin = QDoubleSpinBox(self)
        is_threshold = tunable.name == "threshold"
        spin.setDecimals(4 if is_threshold else 3)
        spin.setRange(tunable.minimum, PLAIN_THRESHOLD if is_threshold else tunable.maximum)
        spin.setSingleStep(0.01)
        spin.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        spin.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        spin.setKeyboardTracking(False)
        spin.setStyleSheet("QDoubleSpinBox { min-width: 50px; padding: 1px 3px; }")
        spin.setFixedWidth(60)
        hint = "\n2 is plain attention: no cell is over it." if is_threshold else ""
        spin.setToolTip(tunable.doc + hint)
        return spin

    def value(self) -> float:
        """The value shown (exact, not rounded to the digits of the number box)."""
        return self._value

    def set_value(self, value: TunableValue) -> None:
        """Show another value without a signal."""
        self._value = self._exact(float(value))
        self._show()

    @staticmethod
    def _exact(value: float) -> float:
        """The value that is kept of a number from slider or box."""
        return value

    def set_trained(self, value: TunableValue) -> None:
        """Put tick and reset button at the trained value."""
        super().set_trained(value)
        self.slider.set_tick(self._position(float(value)))

    def set_scale(self, scale: StepScale | None) -> None:
        """Let the slider run along another scale; the value stays."""
        self._scale = scale
        self._show()
        self.slider.set_tick(self._position(float(self.trained)))

    def _position(self, value: float) -> float:
        if self._scale is not None:
            return float(self._scale.position(value))
        low, high = self.tunable.minimum, self.tunable.maximum
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def _value_at(self, position: float) -> float:
        if self._scale is not None:
            return self._scale.threshold(position)
        return self.tunable.minimum + position * (self.tunable.maximum - self.tunable.minimum)

    def _show(self, but: QWidget | None = None) -> None:
        if but is not self.slider:
            with QSignalBlocker(self.slider):
                self.slider.setValue(self._position(self._value))
        if but is not self.spin:
            with QSignalBlocker(self.spin):
                self.spin.setValue(self._value)
        self._mark()

    def _on_slider(self, position: float) -> None:
        self._value = self._value_at(float(position))
        self._show(but=self.slider)
        self._emit_moved()

    def _on_spin(self, value: float) -> None:
        self._value = self._exact(float(value))
        self._show(but=self.spin)
        self._emit_moved()

    def _emit_moved(self) -> None:
        self.moved.emit(self.tunable.name, self._value)
        if not self.slider.isSliderDown():
            self._settle.start()

    def _emit_released(self) -> None:
        self._settle.stop()
        self.released.emit(self.tunable.name, self._value)


class IntRow(FloatRow):
    """A whole number: the slider snaps, and a value is told once."""

    def __init__(self, tunable: Tunable, parent: QWidget | None = None) -> None:
        super().__init__(tunable, parent)
        step = 1.0 / max(tunable.maximum - tunable.minimum, 1.0)
        self.slider.setSingleStep(step)
        self.slider.setPageStep(step)

    def _make_spin(self, tunable: Tunable) -> QDoubleSpinBox:
        spin = super()._make_spin(tunable)
        spin.setDecimals(0)
        spin.setStepType(QDoubleSpinBox.StepType.DefaultStepType)
        spin.setSingleStep(1.0)
        return spin

    @staticmethod
    def _exact(value: float) -> float:
        return round(value)

    def _on_slider(self, position: float) -> None:
        before = self._value
        self._value = self._exact(self._value_at(float(position)))
        self._show()
        if self._value != before:
            self._emit_moved()


class ChoiceRow(TunableRow):
    """A tunable with a few named choices."""

    def __init__(self, tunable: Tunable, parent: QWidget | None = None) -> None:
        super().__init__(tunable, parent)
        self.combo = QComboBox(self)
        self.combo.addItems(list(tunable.choices))
        self.combo.setToolTip(tunable.doc)
        self.combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.grid.addWidget(self.combo, 0, 1, 1, 2)
        self.grid.setColumnStretch(1, 1)
        self.set_value(tunable.default)
        self.set_trained(tunable.default)
        self.combo.currentTextChanged.connect(self._on_chosen)

    def value(self) -> str:
        """The choice shown."""
        return str(self.combo.currentText())

    def set_value(self, value: TunableValue) -> None:
        """Show another choice without a signal."""
        with QSignalBlocker(self.combo):
            self.combo.setCurrentText(str(value))
        self._mark()

    def _on_chosen(self, text: str) -> None:
        self._mark()
        self.moved.emit(self.tunable.name, text)
        self.released.emit(self.tunable.name, text)


def make_row(tunable: Tunable, parent: QWidget | None = None) -> TunableRow:
    """The row that suits a tunable's kind."""
    rows: dict[str, type[TunableRow]] = {"choice": ChoiceRow, "int": IntRow}
    return rows.get(tunable.kind, FloatRow)(tunable, parent)


def tunables_of(card: Card) -> list[Tunable]:
    """The tunables that a model card declares (JSON made their tuples lists)."""
    plain: list[dict[str, Any]] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in declared.items()}
        for declared in card.tunables
    ]
    return [Tunable(**values) for values in plain]


def _short(value: TunableValue) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
