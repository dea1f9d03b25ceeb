"""A plot to look at, not to drag, in the colours of napari's theme."""

from __future__ import annotations

import pyqtgraph as pg
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QLabel, QWidget

from napari_attnseg.widgets._plots import inks


def still_plot() -> pg.PlotWidget:
    """Without background, menu, buttons and dragging."""
    plot = pg.PlotWidget()
    plot.setBackground(None)
    plot.setMouseEnabled(False, False)
    plot.setMenuEnabled(False)
    plot.hideButtons()
    return plot


class Themed(QWidget):
    """Calls ``restyle`` when the theme has changed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._swatch = QLabel(self)  # carries the theme's text colour; a plot does not
        self._swatch.hide()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.restyle)

    def restyle(self) -> None:
        """Take the theme's colours."""

    def colour(self, *axes: pg.AxisItem) -> None:
        """Lines faint, words in the colour of text."""
        ink = inks(self._swatch)
        for axis in axes:
            axis.setPen(ink.faint)
            axis.setTextPen(ink.text)

    def changeEvent(self, event: QEvent) -> None:
        """Follow a change of napari's theme."""
        super().changeEvent(event)
        changed = (QEvent.Type.StyleChange, QEvent.Type.PaletteChange)
        if hasattr(self, "_soon") and event.type() in changed:
            self._soon.start()
