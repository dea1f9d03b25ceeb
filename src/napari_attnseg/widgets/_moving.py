"""Words and a bar that change often without moving any layout.

Every new text of a label makes each layout above it, and then Qt the whole window, work anew:
five frames of tens of milliseconds without a graphics card. What changes while something runs is
therefore painted on a place that keeps its size.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFontMetrics, QPainter
from qtpy.QtWidgets import QProgressBar, QSizePolicy, QWidget


class MovingWords(QWidget):
    """One line of words, cut with an ellipsis where the dock is narrow (then in the tooltip)."""

    side = Qt.AlignmentFlag.AlignLeft
    inset = 4  # napari's labels stand so far from the edge

    def __init__(self) -> None:
        super().__init__()
        self._words = ""
        self.setStyleSheet("font-size: 11px;")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def text(self) -> str:
        """What is shown."""
        return self._words

    def setText(self, words: str) -> None:
        """Show ``words`` in the next frame."""
        if words != self._words:
            self._words = words
            self.setToolTip(words)
            self.update()

    def sizeHint(self) -> QSize:
        return QSize(0, QFontMetrics(self.font()).height() + 2)

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        words = painter.fontMetrics().elidedText(
            self._words, Qt.TextElideMode.ElideRight, self.width() - self.inset
        )
        painter.setPen(self.palette().windowText().color())
        place = self.rect().adjusted(self.inset, 0, 0, 0)
        painter.drawText(place, self.side | Qt.AlignmentFlag.AlignVCenter, words)


class MovingFigure(MovingWords):
    """A figure at the right end of a row: as wide as the widest so far, so that layouts rest."""

    side = Qt.AlignmentFlag.AlignRight
    inset = 0

    def __init__(self) -> None:
        super().__init__()
        self._wide = 0
        self.setStyleSheet("")
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def setText(self, words: str) -> None:
        super().setText(words)
        needed = QFontMetrics(self.font()).horizontalAdvance(words) + 2
        if needed > self._wide:
            self._wide = needed
            self.updateGeometry()

    def sizeHint(self) -> QSize:
        return QSize(self._wide, super().sizeHint().height())


def move_bar(bar: QProgressBar, value: int) -> None:
    """Bring the bar to ``value`` in the next frame (by itself it composes one at once)."""
    if not bar.isVisible():  # behind another tab: allowing updates would compose a frame
        bar.setValue(value)
        return
    bar.setUpdatesEnabled(False)
    bar.setValue(value)
    bar.setUpdatesEnabled(True)
