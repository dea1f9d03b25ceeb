"""napari's own ``main``, which also answers where things are, so that a mouse can be sent there.

``python walk_window.py SOCKET [napari's arguments]``: whoever connects to the socket sends one
expression; it is evaluated in Qt's main thread and its value comes back as JSON. Nothing is ever
done to the window through it: that is for the mouse and the keys (see ``make_volume_walk.py``).
"""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QPoint, Qt, Signal, Slot
from qtpy.QtWidgets import QApplication, QMenu, QWidget


class Asked(QObject):
    """Lives in the main thread; a call posted from another one runs there."""

    posted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.moveToThread(QCoreApplication.instance().thread())
        self.posted.connect(self.run, Qt.ConnectionType.QueuedConnection)

    @Slot(object)
    def run(self, call: Callable[[], None]) -> None:
        call()


def serve(path: str) -> None:
    """Answer questions, one after the other, for as long as the window lives."""
    while QCoreApplication.instance() is None:
        time.sleep(0.05)
    asked, server = Asked(), socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    while True:
        connection, _ = server.accept()
        with connection:
            words, answers = connection.makefile().read(), queue.Queue()
            asked.posted.emit(lambda w=words, a=answers: a.put(answer(w)))
            connection.sendall(answers.get().encode())


def answer(words: str) -> str:
    """The value of an expression, or what went wrong."""
    try:
        return json.dumps({"value": eval(words, {**globals(), **names()})})
    except Exception:
        return json.dumps({"problem": traceback.format_exc()})


def names() -> dict[str, Any]:
    """What an expression may speak of."""
    import napari

    viewer = napari.current_viewer()
    found: dict[str, Any] = {"viewer": viewer, "app": QApplication.instance()}
    if viewer is None:
        return found
    if "napari_attnseg.widgets._bridge" in sys.modules:
        found["pulse_for"] = sys.modules["napari_attnseg.widgets._bridge"].pulse_for
    found["window"] = viewer.window._qt_window
    for name, widget in viewer.window.dock_widgets.items():
        key = name.split(" (")[0].lower()
        found[key] = getattr(widget, "_magic_widget", widget)
    return found


# --- where things are, in pixels of the screen ----------------------------------------------------


def middle(widget: QWidget) -> tuple[int, int]:
    """The middle of a widget."""
    return point(widget, widget.rect().center())


def point(widget: QWidget, at: QPoint) -> tuple[int, int]:
    """A point of a widget."""
    there = widget.mapToGlobal(at)
    return there.x(), there.y()


def box(widget: QWidget) -> tuple[int, int, int, int]:
    """Left, top, width, height of a widget."""
    return (*point(widget, QPoint(0, 0)), widget.width(), widget.height())


def in_menu_bar(title: str) -> tuple[int, int]:
    """An entry of the menu bar."""
    import napari

    bar = napari.current_viewer().window._qt_window.menuBar()
    action = next(a for a in bar.actions() if a.text().replace("&", "") == title)
    return point(bar, bar.actionGeometry(action).center())


def in_menu(title: str) -> tuple[int, int]:
    """An entry of a menu that is open, by the beginning of its words."""
    for menu in QApplication.allWidgets():
        if isinstance(menu, QMenu) and menu.isVisible():
            for action in menu.actions():
                if action.text().replace("&", "").startswith(title):
                    return point(menu, menu.actionGeometry(action).center())
    raise LookupError(f"no open menu has {title!r}")


def in_combo(combo: Any, words: str) -> tuple[int, int]:
    """An entry of a combo box whose list is open."""
    view, row = combo.view(), combo.findText(words)
    if row < 0 or not view.isVisible():
        raise LookupError(f"{words!r} is not in the list, or the list is closed")
    return point(view.viewport(), view.visualRect(combo.model().index(row, 0)).center())


def in_window(kind: str, words: str) -> tuple[int, int]:
    """A button (or so) with these words in any window of this program that is seen."""
    for widget in QApplication.allWidgets():
        if type(widget).__name__ == kind and widget.isVisible():
            text = widget.text() if hasattr(widget, "text") else widget.windowTitle()
            if text.replace("&", "") == words:
                return middle(widget)
    raise LookupError(f"no {kind} {words!r} is seen")


def dialogs() -> list[str]:
    """Titles of the windows beside napari's."""
    seen = (w for w in QApplication.topLevelWidgets() if w.isVisible() and w.isModal())
    return [w.windowTitle() for w in seen]


def in_controls(words: str) -> tuple[int, int]:
    """A button of napari's layer controls, by words of its tooltip."""
    import napari
    from qtpy.QtWidgets import QRadioButton

    for button in napari.current_viewer().window._qt_viewer.controls.findChildren(QRadioButton):
        if button.isVisible() and words in button.toolTip():
            return middle(button)
    raise LookupError(f"no button of the layer controls says {words!r}")


def in_title(dock: QWidget) -> tuple[int, int]:
    """The cross in the title bar of the dock around a widget."""
    from qtpy.QtWidgets import QDockWidget

    while not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    return middle(dock.titleBarWidget().close_button)


def handle(slider: Any) -> tuple[int, int]:
    """The handle of a slider."""
    from qtpy.QtWidgets import QStyle, QStyleOptionSlider

    option = QStyleOptionSlider()
    slider.initStyleOption(option)
    part = QStyle.SubControl.SC_SliderHandle
    rect = slider.style().subControlRect(QStyle.ComplexControl.CC_Slider, option, part, slider)
    return point(slider, rect.center())


def pixel(layer: Any, at: tuple[float, ...]) -> tuple[int, int]:
    """Where the mouse is over a pixel (..., y, x) of a layer that is seen in 2D."""
    import napari

    viewer = napari.current_viewer()
    canvas = viewer.window._qt_viewer.canvas
    world = [layer.data_to_world(at)[i] for i in viewer.dims.displayed]
    x, y = (canvas.view.transform * canvas.view.scene.transform).map([world[1], world[0]])[:2]
    return point(canvas.native, QPoint(round(float(x)), round(float(y))))


def main() -> None:
    """napari as its command starts it."""
    threading.Thread(target=serve, args=(sys.argv[1],), daemon=True).start()
    sys.argv = ["napari", *sys.argv[2:]]
    from napari.__main__ import main as napari_main

    napari_main()


if __name__ == "__main__":
    main()
