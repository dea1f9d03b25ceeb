"""How a refinement settles: what every step changes, and how good it is, against the step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt, QTimer, Signal
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import hint
from napari_attnseg.widgets._plots import Inks, inks

LINES = {  # name: (colour on dark, colour on light): told apart by colour-blind eyes too
    "changed": ("#56b4e9", "#0072b2"),
    "movement": ("#e69f00", "#b06f00"),
    "Dice": ("#2fd1a0", "#007f5c"),
}
TIP = (
    "Against the step: pixels that change their class, mean movement of the logits, and Dice if a "
    "reference is chosen, each on a scale of its own.\nStep 0 is the coarse mask. Press anywhere "
    "to see that step."
)
EMPTY = "The convergence of the seen slice appears here once it is refined."


class StepPlot(pg.PlotWidget):
    """The curves and a line at the step that is seen; ``picked`` when a person presses a step."""

    picked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.values: dict[str, NDArray[np.float64]] = {}
        self.step = 0
        self._held = False
        self._swatch = QLabel(self)  # carries the theme's text colour; the plot does not
        self._swatch.hide()
        self.setBackground(None)
        self.setFixedHeight(112)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseEnabled(False, False)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.hideAxis("left")
        self.setYRange(0.0, 1.12, padding=0.0)
        self.setXRange(0.0, 6.0, padding=0.04)
        self.curves = {name: self.plot([], []) for name in LINES}
        self.line = pg.InfiniteLine(angle=90)
        self.addItem(self.line, ignoreBounds=True)
        self.restyle()

    @property
    def last(self) -> int:
        """The last step drawn."""
        return max((len(v) for v in self.values.values()), default=1) - 1

    def restyle(self) -> None:
        """Take the colours of napari's theme; the ground is the one around, and Qt caches it."""
        self.resetCachedContent()
        ink = inks(self._swatch)
        for name, curve in self.curves.items():
            color = color_of(name, ink)
            curve.setPen(pg.mkPen(color, width=1.6))
            curve.setSymbol("o")
            curve.setSymbolSize(5)
            curve.setSymbolBrush(color)
            curve.setSymbolPen(None)
        self.line.setPen(pg.mkPen(ink.text, width=2))
        axis = self.getAxis("bottom")
        axis.setPen(pg.mkPen(ink.faint))
        axis.setTextPen(pg.mkPen(ink.text))
        axis.setStyle(tickLength=-4, tickTextOffset=2)

    def set_values(self, values: dict[str, NDArray[np.float64]]) -> None:
        """Draw one value per step and name."""
        self.values = values
        for name, curve in self.curves.items():
            ys = values.get(name)
            if ys is None or not len(ys):
                curve.setData([], [])
                continue
            first = 0 if name == "Dice" else 1  # nothing has moved before the first step
            at = np.arange(len(ys))[first:]
            curve.setData(at, _spread(ys[first:], name))
        self.setXRange(0.0, float(max(self.last, 1)), padding=0.04)
        spread = max(1, -(-self.last // 8))
        words = [(k, str(k)) for k in range(0, self.last + 1, spread)]
        self.getAxis("bottom").setTicks([words])
        self.set_step(self.step)

    def set_step(self, step: int) -> None:
        """Bring the line to ``step`` (no signal)."""
        self.step = step
        self.line.setValue(step)

    # --- the person's hand ----------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A press anywhere picks the nearest step."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._held = True
            self._pick(event)
        else:
            super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the held mouse."""
        if self._held:
            self._pick(event)
        else:
            super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go."""
        self._held = False
        super().mouseReleaseEvent(event)

    def _pick(self, event: QMouseEvent) -> None:
        at = self.plotItem.vb.mapSceneToView(self.mapToScene(event.position().toPoint())).x()
        step = int(np.clip(round(at), 0, self.last))
        if self.values and step != self.step:
            self.set_step(step)
            self.picked.emit(step)


class ConvergenceCurve(QWidget):
    """The plot and, in the curves' colours, their values at the line."""

    picked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plot = StepPlot(self)
        self.plot.setToolTip(TIP)
        self.plot.picked.connect(self._on_picked)
        self.readout = hint()
        self.readout.setTextFormat(Qt.TextFormat.RichText)
        self.place = ""
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self.plot)
        box.addWidget(self.readout)
        self.clear()

    def clear(self) -> None:
        """Nothing is known of what is seen now."""
        self.plot.set_values({})
        self.plot.hide()
        self._say()

    def show_event(
        self, changed: Sequence[int], movement: Sequence[float], dice: Sequence[float], place: str
    ) -> None:
        """Draw an answer; ``place``: what it speaks of (``"slice 3"``)."""
        found = {"changed": changed, "movement": movement, "Dice": dice}
        at_end = not self.plot.values or self.plot.step >= self.plot.last
        self.plot.set_values({k: np.asarray(v, float) for k, v in found.items() if len(v)})
        if at_end or self.plot.step > self.plot.last:
            self.plot.set_step(self.plot.last)
        self.place = place
        self.plot.setVisible(bool(self.plot.values))
        self._say()

    def set_step(self, step: int) -> None:
        """Bring line and figures to ``step``."""
        self.plot.set_step(step)
        self._say()

    def event(self, event: Any) -> bool:
        """Follow the theme: the children know their new colours after this event."""
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            QTimer.singleShot(0, self._restyle)
        return bool(super().event(event))

    def showEvent(self, event: Any) -> None:
        """Only now the style sheet of the window applies."""
        super().showEvent(event)
        self._restyle()

    def _restyle(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self.plot.restyle()
            self._say()

    def _on_picked(self, step: int) -> None:
        self._say()
        self.picked.emit(step)

    def _say(self) -> None:
        """The figures at the line; also the legend of the plot."""
        ink, step = inks(self.readout), self.plot.step
        if not self.plot.values:
            self.readout.setText(f"<span style='color:{ink.faint}'>{EMPTY}</span>")
            return
        words = {
            "changed": "<b>{:,.0f}</b> px changed",
            "movement": "movement <b>{:.3f}</b>",
            "Dice": "Dice <b>{:.3f}</b>",
        }
        parts = [
            f"<span style='color:{color_of(name, ink)}; white-space:nowrap'>━&nbsp;"
            f"{words[name].format(ys[min(step, len(ys) - 1)]).replace(' ', '&nbsp;')}</span>"
            for name, ys in self.plot.values.items()
            if step or name == "Dice"
        ]
        what = "coarse mask" if step == 0 else f"step {step} of {self.plot.last}"
        head = f"<span style='color:{ink.faint}'>{self.place}, {what}</span>"
        self.readout.setText("<br>".join([head, " &nbsp; ".join(parts)]) if parts else head)


def color_of(name: str, ink: Inks) -> str:
    """The colour of a curve in this theme."""
    return LINES[name][0 if ink.dark else 1]


def _spread(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Values on a scale of their own: from 0 to the largest, Dice over its own range, of which
    less than 0.05 is not blown up to full height."""
    high = float(values.max(initial=0.0))
    low = float(values.min(initial=high)) if name == "Dice" else 0.0
    span = max(high - low, 0.05 if name == "Dice" else 1e-12)
    return 1.0 - (high - values) / (span * (1.25 if name == "Dice" else 1.0))
