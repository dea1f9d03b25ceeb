"""What one pixel takes from its neighbours, drawn: 8 arrows, or a field of 48 cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QLabel, QSizePolicy, QToolTip, QWidget

from napari_attnseg.widgets._plots import Inks, inks

POSITIVE, NEGATIVE = QColor("#f28c28"), QColor("#2f7de1")
"""Orange takes the neighbour's answer, blue takes its opposite."""
SIDE, BAR = 196, 30
TIP = (
    "Arrows and cells show the weights with which the asked pixel takes the answers of its "
    "neighbours: orange adds, blue subtracts. Ring: the pixel's share of the coarse mask. All "
    "weights together give 1."
)


@dataclass(frozen=True)
class Weights:
    """``offsets`` (dy, dx) of the neighbours and their weights; ``centre``: of the pixel itself;
    ``residual``: of the coarse map."""

    offsets: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    residual: float
    centre: float = 0.0

    @property
    def radius(self) -> int:
        """How far the neighbours reach."""
        return max((max(abs(dy), abs(dx)) for dy, dx in self.offsets), default=1)

    @property
    def top(self) -> float:
        """The largest weight of a neighbour or of the pixel itself, whatever its sign."""
        return max((abs(w) for w in (*self.weights, self.centre)), default=0.0) or 1.0


class AffinityRose(QWidget):
    """The neighbourhood of one pixel, rows downwards as in the image; figures in tooltips."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.found: Weights | None = None
        self._swatch = QLabel(self)
        self._swatch.hide()
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(SIDE + BAR)

    def sizeHint(self) -> QSize:
        """A square and its legend."""
        return QSize(SIDE, SIDE + BAR)

    def set_weights(self, found: Weights | None) -> None:
        """Show other weights, or none."""
        self.found = found
        self.update()

    # --- geometry -------------------------------------------------------------------------------

    def cell(self, dy: int, dx: int) -> QRectF:
        """Where the neighbour at (dy, dx) is drawn."""
        radius = self.found.radius if self.found is not None else 1
        side = min(self.width(), SIDE) / (2 * radius + 1)
        left = (self.width() - side * (2 * radius + 1)) / 2
        return QRectF(left + (dx + radius) * side, (dy + radius) * side, side, side)

    def words_at(self, at: QPointF) -> str:
        """What stands under the mouse."""
        if self.found is None:
            return ""
        if self.cell(0, 0).contains(at):
            found = self.found
            return f"the pixel itself {found.centre:+.3f}\nthe coarse mask {found.residual:+.3f}"
        for (dy, dx), weight in zip(self.found.offsets, self.found.weights, strict=True):
            if self.cell(dy, dx).contains(at):
                return f"{place_words(dy, dx)}: {weight:+.3f}"
        return ""

    def event(self, event: Any) -> bool:
        """The weight under the mouse as a tooltip; the meaning elsewhere."""
        if event.type() == QEvent.Type.ToolTip:
            words = self.words_at(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), words or TIP, self)
            return True
        return bool(super().event(event))

    # --- drawing --------------------------------------------------------------------------------

    def paintEvent(self, event: Any) -> None:
        """Cells, arrows of a 3x3 neighbourhood, the ring of the residual, the legend."""
        if self.found is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink, found = inks(self._swatch), self.found
        for (dy, dx), weight in zip(found.offsets, found.weights, strict=True):
            self._cell(painter, self.cell(dy, dx), weight, ink)
            if found.radius == 1:
                self._arrow(painter, dy, dx, weight, ink)
        self._centre(painter, ink)
        self._legend(painter, ink)
        painter.end()

    def _color(self, weight: float) -> QColor:
        assert self.found is not None
        color = QColor(POSITIVE if weight >= 0 else NEGATIVE)
        color.setAlphaF(min(1.0, abs(weight) / self.found.top))
        return color

    def _cell(self, painter: QPainter, place: QRectF, weight: float, ink: Inks) -> None:
        edge = QColor(ink.faint)
        edge.setAlpha(90)
        painter.setPen(QPen(edge, 1))
        painter.setBrush(self._color(weight))
        painter.drawRect(place.adjusted(1, 1, -1, -1))

    def _arrow(self, painter: QPainter, dy: int, dx: int, weight: float, ink: Inks) -> None:
        """From the neighbour towards the pixel that takes from it; the figure beside its foot."""
        assert self.found is not None
        place = self.cell(dy, dx)
        length = math.hypot(dy, dx)
        direction = QPointF(-dx / length, -dy / length)
        start = place.center() + direction * (0.12 * place.width())
        end = start + direction * (0.62 * place.width() * (abs(weight) / self.found.top) + 1)
        color = QColor(ink.text)
        painter.setPen(QPen(color, 1.0 + 2.5 * abs(weight) / self.found.top))
        painter.drawLine(start, end)
        if abs(weight) > 0.05 * self.found.top:
            side = QPointF(-direction.y(), direction.x())
            back = end - direction * 8
            painter.setBrush(color)
            painter.drawPolygon(QPolygonF([end, back + side * 4, back - side * 4]))
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        painter.setPen(color)
        corner = place.adjusted(5, 3, -5, -3)
        below = Qt.AlignmentFlag.AlignTop if dy <= 0 else Qt.AlignmentFlag.AlignBottom
        across = Qt.AlignmentFlag.AlignRight if dx > 0 else Qt.AlignmentFlag.AlignLeft
        painter.drawText(corner, int(below | across), f"{weight:+.2f}")

    def _centre(self, painter: QPainter, ink: Inks) -> None:
        """The pixel itself, and around it a ring as full as its share of the coarse mask."""
        assert self.found is not None
        place = self.cell(0, 0)
        self._cell(painter, place, self.found.centre, ink)
        inner = place.adjusted(*(place.width() * k for k in (0.16, 0.16, -0.16, -0.16)))
        width = max(2.0, place.width() * 0.09)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        track = QColor(ink.faint)
        track.setAlpha(80)
        painter.setPen(QPen(track, width))
        painter.drawEllipse(inner)
        share = max(-1.0, min(1.0, self.found.residual))
        color = QColor(POSITIVE if share >= 0 else NEGATIVE)
        painter.setPen(QPen(color, width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        painter.drawArc(inner, 90 * 16, -int(share * 360 * 16))
        if self.found.radius == 1:
            painter.setPen(QColor(ink.text))
            words = f"coarse\n{self.found.residual:+.2f}"
            painter.drawText(place, int(Qt.AlignmentFlag.AlignCenter), words)

    def _legend(self, painter: QPainter, ink: Inks) -> None:
        assert self.found is not None
        width = min(self.width(), SIDE) * 0.7
        bar = QRectF((self.width() - width) / 2, SIDE + 8.0, width, 7.0)
        gradient = QLinearGradient(bar.left(), 0.0, bar.right(), 0.0)
        for at in (0.0, 0.25, 0.5, 0.75, 1.0):
            gradient.setColorAt(at, self._color((2 * at - 1) * self.found.top))
        painter.fillRect(bar, gradient)
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        painter.setPen(QColor(ink.text))
        ends = QRectF(bar.left() - 40, bar.bottom() + 1, bar.width() + 80, 14)
        top = self.found.top
        for flag, words in (
            (Qt.AlignmentFlag.AlignLeft, f"{-top:+.2g}"),
            (Qt.AlignmentFlag.AlignHCenter, "0"),
            (Qt.AlignmentFlag.AlignRight, f"{top:+.2g}"),
        ):
            painter.drawText(ends, int(flag | Qt.AlignmentFlag.AlignTop), words)


def place_words(dy: int, dx: int) -> str:
    """``"1 up, 2 right"``."""
    parts = [f"{abs(dy)} {'up' if dy < 0 else 'down'}"] if dy else []
    parts += [f"{abs(dx)} {'left' if dx < 0 else 'right'}"] if dx else []
    return ", ".join(parts)


def sums(weights: Sequence[float]) -> tuple[float, float]:
    """What the neighbours add and what they subtract together."""
    return sum(w for w in weights if w > 0), sum(w for w in weights if w < 0)
