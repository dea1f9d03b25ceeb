"""The colours of a map as a bar with its two ends in figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QRectF
from qtpy.QtGui import QColor, QLinearGradient, QPainter
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

STOPS = 17
_EVENTS = ("contrast_limits", "colormap", "face_contrast_limits", "current_face_color")


class _Bar(QWidget):
    """The gradient itself, over the theme's own ground where colours are see-through."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(10)
        self.colors: list[tuple[float, ...]] = []

    def paintEvent(self, event: Any) -> None:
        """Draw the colours from the smallest value on the left to the largest on the right."""
        if not self.colors:
            return
        gradient = QLinearGradient(0.0, 0.0, float(self.width()), 0.0)
        for at, color in zip(np.linspace(0.0, 1.0, len(self.colors)), self.colors, strict=True):
            gradient.setColorAt(float(at), QColor.fromRgbF(*color))
        painter = QPainter(self)
        painter.fillRect(QRectF(0.0, 0.0, self.width(), self.height()), gradient)
        painter.end()


class ColourScale(QWidget):
    """Follows the contrast limits and the colour map of one layer; hidden without one."""

    def __init__(self) -> None:
        super().__init__()
        self.setToolTip(
            "The colours of the map and the values at their ends; stronger values have the last "
            "colour. Change them with the contrast limits of the layer."
        )
        self.bar = _Bar()
        self.low, self.what, self.high = QLabel(), QLabel(), QLabel()
        line = QHBoxLayout()
        for label, stretch in ((self.low, 0), (self.what, 1), (self.high, 0)):
            label.setStyleSheet("font-size: 11px;")
            line.addWidget(label, stretch)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 2, 0, 2)
        box.setSpacing(1)
        box.addWidget(self.bar)
        box.addLayout(line)
        self._layer: Any = None
        self.hide()

    def follow(self, layer: Any, what: str = "") -> None:
        """Show the scale of an Image, Surface or Points ``layer``; ``None``: of nothing."""
        for name in _EVENTS:
            if self._layer is not None and hasattr(self._layer.events, name):
                getattr(self._layer.events, name).disconnect(self._show)
        self._layer = layer
        self.what.setText(f"\u2190 {what} \u2192" if what else "")
        for name in _EVENTS:
            if layer is not None and hasattr(layer.events, name):
                getattr(layer.events, name).connect(self._show)
        self.setVisible(layer is not None)
        self._show()

    def _show(self, event: Any = None) -> None:
        if self._layer is None or not isalive(self):
            return
        points = hasattr(self._layer, "face_contrast_limits")
        limits = self._layer.face_contrast_limits if points else self._layer.contrast_limits
        colormap = self._layer.face_colormap if points else self._layer.colormap
        self.bar.colors = [tuple(map(float, c)) for c in colormap.map(np.linspace(0, 1, STOPS))]
        nothing = abs(limits[0]) < 1e-3 * abs(limits[1])
        self.low.setText("0" if nothing else f"{limits[0]:.3g}")
        self.high.setText(f"\u2265 {limits[1]:.3g}")
        self.bar.update()
