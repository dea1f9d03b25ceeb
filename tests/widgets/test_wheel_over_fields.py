"""Scrolling a dock changes no choice on the way."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QComboBox, QLabel, QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import narrow, scrolling

pytestmark = pytest.mark.gui


def turn(widget: QWidget) -> bool:
    """The wheel, a notch towards the person, over the middle of ``widget``; whether it was taken
    there (else the system asks the parents, which a made event does not)."""
    middle = QPointF(widget.rect().center())
    event = QWheelEvent(
        middle,
        QPointF(widget.mapToGlobal(middle.toPoint())),
        QPoint(0, 0),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)
    return event.isAccepted()


def test_the_wheel_scrolls_the_dock_and_chooses_nothing(qtbot: Any) -> None:
    content, combo = QWidget(), narrow(QComboBox())
    chosen: list[int] = []
    combo.addItems(["first", "second", "third"])
    combo.activated.connect(chosen.append)
    box = QVBoxLayout(content)
    box.addWidget(combo)
    box.addWidget(QLabel("\n" * 60))
    area = scrolling(content)
    qtbot.addWidget(area)
    area.resize(200, 200)
    area.show()
    qtbot.waitExposed(area)
    assert not turn(combo), "it is for the dock around"
    assert (combo.currentIndex(), chosen) == (0, [])

    area.activateWindow()
    combo.setFocus()
    qtbot.waitUntil(combo.hasFocus)
    assert turn(combo)
    assert combo.currentIndex() == 1, "a combo box that has the focus takes the wheel"
