"""The threshold fingerprint: curves over every threshold, behind a line that can be dragged."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_attnseg.control.messages import Fingerprinted
from napari_attnseg.settings import PLAIN_THRESHOLD
from napari_attnseg.widgets._scale import Kind, StepScale

BINS = 80
CURVES = {  # name: (colour on dark, colour on light): told apart by colour-blind eyes too
    "area": ("#56b4e9", "#0072b2"),
    "objects": ("#e69f00", "#b06f00"),
    "Dice": ("#2fd1a0", "#007f5c"),
    "IoU": ("#e58fc0", "#a3437f"),
}


@dataclass(frozen=True)
class Inks:
    """Colours that suit the theme around a widget."""

    text: str
    faint: str
    line: str
    dark: bool

    def curve(self, name: str) -> str:
        """The colour of one fingerprint curve."""
        return CURVES[name][0 if self.dark else 1]


def inks(widget: QWidget) -> Inks:
    """The colours around ``widget``: napari's style sheet decides, each viewer for itself."""
    widget.ensurePolished()
    text = widget.palette().color(QPalette.ColorRole.WindowText)
    dark = text.lightnessF() > 0.5
    return Inks(
        text.name(), "#8d959f" if dark else "#7c828a", "#6fb7ff" if dark else "#0a64c8", dark
    )


class ThresholdPlot(pg.PlotWidget):
    """Histogram of ``step`` and fingerprint curves along the slider's own scale.

    Every curve has a scale of its own, so that small differences can be seen; the readout below
    names the values at the line. ``moved`` and ``released`` carry a threshold.
    """

    moved = Signal(float)
    released = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.scale_now = StepScale()
        self._fingerprint: Fingerprinted | None = None
        self._trained: float | None = None
        self._threshold = 0.0
        self._held = False
        self._swatch = QLabel(self)  # carries the theme's text colour; the plot itself does not
        self._swatch.hide()
        self._build()
        self.restyle()

    def _build(self) -> None:
        self.setBackground(None)
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(150)
        self.setMouseEnabled(False, False)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.hideAxis("left")
        self.setXRange(0.0, 1.0, padding=0.02)
        self.setYRange(0.0, 1.16, padding=0.0)
        self._bars = pg.BarGraphItem(x=[0.5], height=[0.0], width=0.01)
        self._fill = pg.PlotCurveItem(fillLevel=0.0)
        self._curves = {name: pg.PlotCurveItem() for name in CURVES}
        self._tick = pg.InfiniteLine(angle=90, movable=False, label="trained")
        self._line = pg.InfiniteLine(angle=90, movable=True, bounds=(0.0, 1.0))
        self._line.setCursor(Qt.CursorShape.SplitHCursor)
        self._tick.setVisible(False)
        for item in (self._bars, self._fill, *self._curves.values(), self._tick, self._line):
            self.addItem(item)
        self._line.sigDragged.connect(self._on_dragged)
        self._line.sigPositionChangeFinished.connect(self._on_released)

    # --- what is shown ------------------------------------------------------------------------

    def restyle(self) -> None:
        """Take the colours of napari's theme; the ground is the one around, and Qt caches it."""
        self.resetCachedContent()
        ink = inks(self._swatch)
        faint = QColor(ink.faint)
        faint.setAlpha(110)
        self._bars.setOpts(brush=faint, pen=None)
        self._fill.setPen(pg.mkPen(None))
        self._fill.setBrush(faint)
        for name, curve in self._curves.items():
            curve.setPen(pg.mkPen(ink.curve(name), width=1.6))
        self._tick.setPen(pg.mkPen(ink.faint, width=1.2, style=Qt.PenStyle.DashLine))
        if self._tick.label is not None:
            self._tick.label.setColor(ink.faint)
            self._tick.label.setPosition(0.95)
        self._line.setPen(pg.mkPen(ink.text, width=2))
        self._line.setHoverPen(pg.mkPen(ink.line, width=3))
        axis = self.getAxis("bottom")
        axis.setPen(pg.mkPen(ink.faint))
        axis.setTextPen(pg.mkPen(ink.text))
        axis.setStyle(tickLength=-4, tickTextOffset=2)

    def set_scale(self, scale: StepScale) -> None:
        """Put all drawings on another scale (linear or quantile, or other ``step`` values)."""
        self.scale_now = scale
        self._draw_step()
        self._draw_curves()
        self._draw_ticks()
        self.set_threshold(self._threshold)
        self.set_trained(self._trained)

    def set_fingerprint(self, fingerprint: Fingerprinted | None) -> None:
        """Show the curves of one slice, or none."""
        self._fingerprint = fingerprint
        self._draw_curves()

    def set_threshold(self, threshold: float) -> None:
        """Move the line (no signal); thresholds beyond the scale lie at its end."""
        self._threshold = float(threshold)
        if not self._held:
            self._line.setValue(float(self.scale_now.position(threshold)))

    def set_trained(self, threshold: float | None) -> None:
        """Mark the value the model was trained with."""
        self._trained = threshold
        self._tick.setVisible(threshold is not None)
        if threshold is not None:
            self._tick.setValue(float(self.scale_now.position(threshold)))

    def forget_values(self) -> None:
        """Read nothing from these curves any more; they stay drawn until others come."""
        self._fingerprint = None

    def values_at(self, threshold: float) -> dict[str, float]:
        """The fingerprint read at ``threshold``: area (pixels), objects, Dice and IoU if known.

        Curves are constant between two thresholds, so the value at the next lower one counts.
        """
        f = self._fingerprint
        if f is None or not f.thresholds:
            return {}
        at = int(np.searchsorted(np.asarray(f.thresholds), threshold, side="right")) - 1
        return {name: float(ys[max(at, 0)]) for name, ys in _series(f).items()}

    # --- drawing ------------------------------------------------------------------------------

    def _draw_step(self) -> None:
        scale = self.scale_now
        self._bars.setVisible(not scale.is_quantile)
        self._fill.setVisible(scale.is_quantile)
        if scale.is_quantile:
            at = np.linspace(0.0, 1.0, 201)
            self._fill.setData(at, _share(scale.quantiles(at)))
            return
        counts, edges = scale.histogram(BINS)
        height = _share(np.log1p(counts))  # log: one sharp edge among a thousand flat cells
        middle = (edges[:-1] + edges[1:]) / 2.0 / scale.upper
        self._bars.setOpts(x=middle, height=height, width=1.0 / BINS)

    def _draw_curves(self) -> None:
        series = {} if self._fingerprint is None else _series(self._fingerprint)
        for name, curve in self._curves.items():
            if name not in series or self._fingerprint is None:
                curve.setData([], [])
                continue
            # nothing changes beyond the last threshold: draw it to the frame's edge
            x = np.append(self.scale_now.position(self._fingerprint.thresholds), 1.0)
            ys = np.append(series[name], series[name][-1])
            curve.setData(x, _spread(ys, 0.05 if name in ("Dice", "IoU") else 0.1 * ys.max()))

    def _draw_ticks(self) -> None:
        scale, axis = self.scale_now, self.getAxis("bottom")
        at = np.linspace(0.0, 1.0, 5)
        words = [f"{scale.threshold(p):.2g}" for p in at]
        axis.setTicks([list(zip(at.tolist(), words, strict=True))])

    # --- the person's hand --------------------------------------------------------------------

    def _on_dragged(self) -> None:
        self._held = True
        self._threshold = self.scale_now.threshold(self._line.value())
        self.moved.emit(self._threshold)

    def _on_released(self) -> None:
        self._held = False
        self.released.emit(self._threshold)

    def mousePressEvent(self, event: Any) -> None:
        """A press anywhere brings the line there, so that nobody has to hit 2 pixels."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._held = True
            self._jump(event)
        else:
            super().mousePressEvent(event)

    def mouseMoveEvent(self, event: Any) -> None:
        """Follow the held mouse."""
        if self._held:
            self._jump(event)
        else:
            super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: Any) -> None:
        """Let go: the rest of the volume may follow."""
        if self._held:
            self._on_released()
        else:
            super().mouseReleaseEvent(event)

    def _jump(self, event: Any) -> None:
        at = self.plotItem.vb.mapSceneToView(self.mapToScene(event.position().toPoint()))
        self._line.setValue(min(max(at.x(), 0.0), 1.0))
        self._threshold = self.scale_now.threshold(self._line.value())
        self.moved.emit(self._threshold)


class Fingerprint(QWidget):
    """The plot and, in the curves' colours, their values at the line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plot = ThresholdPlot(self)
        self.plot.setToolTip(
            "Grey: how often each step between neighbouring attention rows occurs (log scale).\n"
            "Curves: what every threshold would give on this slice, each on a scale of its own.\n"
            "Drag the line, or press anywhere, to move the threshold."
        )
        self.readout = QLabel(self)
        self.readout.setTextFormat(Qt.TextFormat.RichText)
        self.readout.setWordWrap(True)
        self._shown, self._place = 0.0, ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.plot)
        layout.addWidget(self.readout)
        self.show_values(0.0)

    def event(self, event: Any) -> bool:
        """Follow the theme: the children know their new colours after this event."""
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            QTimer.singleShot(0, self._restyle)
        return bool(super().event(event))

    def _restyle(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self.plot.restyle()
            self.show_values(self._shown)

    def showEvent(self, event: Any) -> None:
        """Only now the style sheet of the window applies."""
        super().showEvent(event)
        self._restyle()

    def set_data(
        self,
        step: NDArray[Any],
        fingerprint: Fingerprinted | None,
        kind: Kind,
        trained: float,
        place: str = "",
    ) -> None:
        """Show another slice's ``step`` and curves on a scale of ``kind``.

        ``place``: which mask the figures speak of, in words.
        """
        self._place = place
        include = trained if trained < PLAIN_THRESHOLD else 0.0
        self.plot.set_fingerprint(fingerprint)
        self.plot.set_trained(trained)
        self.plot.set_scale(StepScale(step, kind, include))

    def forget(self) -> None:
        """Another slice is seen: its figures follow with its curves."""
        self.plot.forget_values()
        self.show_values(self._shown)

    def show_values(self, threshold: float) -> None:
        """Write the curves' values at ``threshold``; also the legend of the plot."""
        self._shown = threshold
        values, ink = self.plot.values_at(threshold), inks(self.readout)
        if not values:
            self.readout.setText(
                f"<span style='color:{ink.faint}'>The figures of every threshold appear here "
                "once this slice is segmented.</span>"
            )
            return
        words = {
            "area": "area <b>{:,.0f}</b> px",
            "objects": "<b>{:,.0f}</b> objects",
            "Dice": "Dice <b>{:.3f}</b>",
            "IoU": "IoU <b>{:.3f}</b>",
        }
        parts = [
            f"<span style='color:{ink.curve(name)}; white-space:nowrap'>━&nbsp;"
            f"{words[name].format(value).replace(' ', '&nbsp;')}</span>"
            for name, value in values.items()
        ]
        place = f"<br><span style='color:{ink.faint}'>{self._place}</span>" if self._place else ""
        self.readout.setText(" &nbsp; ".join(parts) + place)


def _series(f: Fingerprinted) -> dict[str, tuple[float, ...]]:
    """The curves that an answer holds, by the name they are shown under."""
    found = {"area": f.area, "objects": f.components, "Dice": f.dice, "IoU": f.iou}
    return {name: tuple(map(float, ys)) for name, ys in found.items() if len(ys)}


def _share(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values as a share of their maximum (all zero stays zero)."""
    values = np.asarray(values, dtype=np.float64)
    top = float(values.max(initial=0.0))
    return values / top if top > 0 else values


def _spread(values: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Values over their own range; ranges below ``least`` are not blown up to full height."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, least, 1e-12) * 1.25
    return 1.0 - (high - values) / span
