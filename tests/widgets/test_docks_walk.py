"""Every dock, both themes, 300 pixels: each field explains itself, no word is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QScrollBar,
    QStyle,
    QStyleOptionButton,
    QTabBar,
    QWidget,
)

from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.hub import hub_for

pytestmark = pytest.mark.gui
FIELDS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)
DOCKS = ("Segment", "Tune", "Train", "Measure", "Compare layers (CKA)")


@pytest.fixture
def window(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A shown viewer with an image and a model."""
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1000, 620)  # low: the docks scroll, which takes width
    viewer.add_image(np.random.default_rng(0).random((33, 47)).astype(np.float32), name="cells")
    hub_for(viewer).set_model(str(tiny_checkpoint))
    yield viewer
    hub_for(viewer).close()


def open_dock(viewer: Any, name: str, qtbot: Any) -> QWidget:
    dock, widget = viewer.window.add_plugin_dock_widget("napari-attnseg", name)
    viewer.window._qt_window.resizeDocks([dock], [300], Qt.Orientation.Horizontal)
    qtbot.wait(150)
    for fold in ("maps_button",):  # what is folded away is walked over too
        if hasattr(widget, fold):
            getattr(widget, fold).setChecked(True)
    qtbot.wait(150)
    return widget


def explained(field: QWidget, dock: QWidget) -> bool:
    """By its own tooltip, or that of a compound field around it."""
    while field is not None and field is not dock:
        if field.toolTip():
            return True
        field = field.parentWidget()
    return False


def inner(field: QWidget) -> bool:
    """Parts that Qt or pyqtgraph make: arrows of a tab bar, scroll bars, edits of spin boxes."""
    name = field.objectName()
    return (
        isinstance(field, QScrollBar)
        or name.startswith("qt_")
        or isinstance(field.parentWidget(), QTabBar | QComboBox | QAbstractSpinBox)
    )


def wanted_width(field: QWidget) -> int:
    """Pixels that the words of a label or button need."""
    words = field.text().replace("&", "")
    if isinstance(field, QLabel):
        return field.sizeHint().width() if not field.wordWrap() else 0
    lines = [field.fontMetrics().horizontalAdvance(line) for line in words.split("\n")]
    return max(lines, default=0)


def room(field: QWidget) -> int:
    """Pixels that the style leaves to the words."""
    if type(field).__name__ == "QPushButton":
        option = QStyleOptionButton()
        field.initStyleOption(option)
        part = QStyle.SubElement.SE_PushButtonContents
        return field.style().subElementRect(part, option, field).width()
    return field.width()  # what a label wishes for has its margins in it


def cut_words(dock: QWidget) -> list[str]:
    """Labels and buttons in sight whose words do not fit, with the numbers."""
    found = []
    for field in [*dock.findChildren(QLabel), *dock.findChildren(QAbstractButton)]:
        if not field.isVisible() or inner(field) or not field.text():
            continue
        wish, have = wanted_width(field), room(field)
        if wish > have + 1 and not field.toolTip().startswith(field.text()):
            found.append(f"{type(field).__name__} {field.text()!r} needs {wish}, has {have}")
        over = field.mapTo(dock, field.rect().topRight()).x() - dock.width()
        if over > 0:
            found.append(f"{type(field).__name__} {field.text()!r} leaves the dock by {over}")
    return found


@pytest.mark.parametrize("name", DOCKS)
def test_every_field_has_a_tooltip_and_no_word_is_cut(name: str, window: Any, qtbot: Any) -> None:
    dock = open_dock(window, name, qtbot)
    assert dock.width() <= 310, "the dock can be as narrow as this"
    silent = [
        f"{type(f).__name__} {getattr(f, 'text', str)()!r}"
        for kind in FIELDS
        for f in dock.findChildren(kind)
        if not inner(f) and not explained(f, dock)
    ]
    assert not silent
    for theme in ("dark", "light"):
        window.theme = theme
        qtbot.wait(150)
        assert not cut_words(dock), theme


def test_the_walk_finds_what_is_cut(window: Any, qtbot: Any) -> None:
    """The test above can fail: a button and a label too narrow for their words."""
    dock = open_dock(window, "Segment", qtbot)
    dock.run.setFixedWidth(40)
    qtbot.wait(50)
    assert any("Run" in words for words in cut_words(dock))
