"""Loss and validation curves of a training, as it goes."""

from __future__ import annotations

import math
from typing import Any

import pyqtgraph as pg
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import hint
from napari_attnseg.widgets._plots import inks

LINES = {  # name: (colour on dark, colour on light, pen style)
    "training loss": ("#56b4e9", "#0072b2", Qt.PenStyle.SolidLine),
    "validation loss": ("#e69f00", "#b06f00", Qt.PenStyle.DashLine),
    "Dice": ("#2fd1a0", "#007f5c", Qt.PenStyle.SolidLine),
    "IoU": ("#e58fc0", "#a3437f", Qt.PenStyle.DashLine),
}
UPPER = ("training loss", "validation loss")


class TrainingCurves(QWidget):
    """Two plots over the epochs, losses above, Dice and IoU below; the best epoch is marked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.epochs: list[int] = []
        self.values: dict[str, list[float]] = {name: [] for name in LINES}
        self.best: int | None = None
        self._measured_on = "validation"
        self._swatch = QLabel(self)  # carries the theme's text colour; the plots do not
        self._swatch.hide()
        self.losses, self.scores = pg.PlotWidget(), pg.PlotWidget()
        self.readout = hint()
        self._curves: dict[str, Any] = {}
        self._best_lines: list[Any] = []
        self._soon = QTimer(self)  # a child: never fires after the widget is gone
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.restyle)
        self._build()
        self.restyle()

    def _build(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        for plot, caption in ((self.losses, "loss"), (self.scores, "validation")):
            plot.setBackground(None)
            plot.setFixedHeight(100)
            plot.setMouseEnabled(False, False)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.setLabel("left", caption)
            plot.getAxis("left").setWidth(46)
            line = pg.InfiniteLine(angle=90)
            line.hide()
            plot.addItem(line, ignoreBounds=True)
            self._best_lines.append(line)
            box.addWidget(plot)
        box.addWidget(self.readout)
        self.scores.setYRange(0, 1, padding=0.08)
        self.scores.setLabel("bottom", "epoch")
        for name in LINES:
            plot = self.losses if name in UPPER else self.scores
            self._curves[name] = plot.plot([], [])
        self.losses.setToolTip("Solid: training loss. Dashed: validation loss. Line: best epoch.")
        self.measure_on("validation")

    def measure_on(self, what: str) -> None:
        """Name the pixels on which Dice and IoU are measured: kept back, or learnt from."""
        part = "the validation part" if what == "validation" else f"the {what} themselves"
        self.scores.setLabel("left", what)
        self.scores.setToolTip(f"Solid: Dice. Dashed: IoU, both on {part}.")

    def clear(self) -> None:
        """Forget a former training."""
        self.epochs.clear()
        for values in self.values.values():
            values.clear()
        self.best = None
        self.draw()

    def add(self, event: Any, draw: bool = True) -> None:
        """Append one ``EpochDone``; an epoch seen before (after a resume) replaces the old one."""
        while self.epochs and self.epochs[-1] >= event.epoch:
            self.epochs.pop()
            for values in self.values.values():
                values.pop()
        self.epochs.append(event.epoch)
        if event.measured_on != self._measured_on:
            self._measured_on = event.measured_on
            self.measure_on(event.measured_on)
        found = event.validation
        news = (event.loss, event.validation_loss, found.get("dice"), found.get("iou"))
        for name, value in zip(LINES, news, strict=True):
            self.values[name].append(math.nan if value is None else float(value))
        if event.best:
            self.best = event.epoch
        if draw:
            self.draw()

    def draw(self) -> None:
        """Bring the picture to the values."""
        for name, curve in self._curves.items():
            known = not all(math.isnan(v) for v in self.values[name])
            values = (self.epochs, self.values[name]) if known else ([], [])
            curve.setData(*values, connect="finite")
            one = len(self.epochs) == 1
            curve.setSymbol("o" if one else None)
        for line in self._best_lines:
            line.setVisible(self.best is not None)
            line.setValue(self.best or 0)
        last = max(self.epochs, default=0)
        for plot in (self.losses, self.scores):
            plot.setXRange(min(self.epochs, default=0), max(last, 5), padding=0.02)
        self._say()

    def _say(self) -> None:
        """A legend that carries the newest values, in the curves' own colours."""
        dark = inks(self._swatch).dark
        words = []
        for name, (on_dark, on_light, style) in LINES.items():
            mark = "━" if style == Qt.PenStyle.SolidLine else "╍"
            values = self.values[name]
            value = f" {values[-1]:.3f}" if values and not math.isnan(values[-1]) else ""
            color = on_dark if dark else on_light
            words.append(f'<span style="color:{color}">{mark}</span>&nbsp;{name}{value}')
        upper, lower = words[: len(UPPER)], words[len(UPPER) :]
        gap = "&nbsp;&nbsp; "
        self.readout.setText(f"{gap.join(upper)}<br>{gap.join(lower)}")

    def restyle(self) -> None:
        """Take the theme's colours."""
        look = inks(self._swatch)
        for plot in (self.losses, self.scores):
            plot.resetCachedContent()  # the ground is the theme's, and Qt caches it
            for side in ("left", "bottom"):
                axis = plot.getAxis(side)
                axis.setPen(look.faint)
                axis.setTextPen(look.text)
        for name, (on_dark, on_light, style) in LINES.items():
            color = on_dark if look.dark else on_light
            self._curves[name].setPen(pg.mkPen(color, width=2, style=style))
            self._curves[name].setSymbolBrush(color)
            self._curves[name].setSymbolSize(6)
        for line in self._best_lines:
            line.setPen(pg.mkPen(look.faint, width=1, style=Qt.PenStyle.DotLine))
        self._say()

    def changeEvent(self, event: QEvent) -> None:
        """Follow a change of napari's theme."""
        super().changeEvent(event)
        if hasattr(self, "_soon") and event.type() in (
            QEvent.Type.StyleChange,
            QEvent.Type.PaletteChange,
        ):
            self._soon.start()
