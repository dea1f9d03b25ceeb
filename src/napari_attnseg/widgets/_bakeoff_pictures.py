"""Masks and maps side by side: which image, what over it, and how to get out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QSpinBox, QVBoxLayout, QWidget

from napari_attnseg.viewer.bakeoff_grid import BOTH, MAPS, MASKS, BakeOffGrid
from napari_attnseg.widgets._parts import button, hint, narrow

LONGEST = 30
"""Letters of a file's name that fit into the dock."""
WORDS = {
    MASKS: "Over the images: masks",
    MAPS: "Over the images: maps",
    BOTH: "Over the images: both",
}


class PicturePanel(QWidget):
    """``asked`` carries the number of the test image (from 0) whose pictures are wanted."""

    asked = Signal(int)

    def __init__(self, grid: BakeOffGrid) -> None:
        super().__init__()
        self.grid = grid
        self.show_button = button(
            "Show pictures", "Image, map and mask of all contestants side by side, as layers"
        )
        self.show_button.setCheckable(True)
        self.what = narrow(QComboBox())
        self.what.setToolTip("What lies over the images")
        for what, words in WORDS.items():
            self.what.addItem(words, what)
        self.image = QSpinBox()
        self.image.setPrefix("test image ")
        self.image.setMinimum(1)
        self.image.setMaximum(100_000)
        self.image.setKeyboardTracking(False)
        self.image.setToolTip("Another image of the test part")
        self.words = hint()
        self.words.hide()
        self._choices = QWidget()
        inside = QVBoxLayout(self._choices)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        inside.addWidget(self.what)
        inside.addWidget(self.image)
        self._choices.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        for part in (self.show_button, self._choices, self.words):
            box.addWidget(part)
        self.show_button.clicked.connect(self._toggle)
        self.what.currentIndexChanged.connect(lambda _: self._choose())
        self.image.valueChanged.connect(lambda n: self.asked.emit(n - 1))

    def take(self, event: Any, found: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Show the pictures (``BakeOffPicturesDone`` and its table)."""
        if not self.show_button.isChecked():
            return  # closed meanwhile
        with QSignalBlocker(self.image):
            self.image.setMaximum(event.count)
            self.image.setSuffix(f" of {event.count}")
            self.image.setValue(event.index + 1)
        self.grid.show(found, names)
        self._choices.show()
        missing = [n for n in names if n not in {cell["key"] for cell in found["cells"]}]
        late = f" Not trained yet: {', '.join(names[key] for key in missing)}." if missing else ""
        name = str(found["image"]["name"])
        short = name if len(name) <= LONGEST else f"{name[:12]}...{name[-12:]}"
        layers = "All are four layers: images, maps, masks, names."
        if not self.grid.mosaic:
            layers = "Every cell is three layers: image, map, mask."
        self.words.setText(f"{short}. {layers}{late}")
        self.words.setToolTip(name)
        self.words.show()

    def say(self, words: str) -> None:
        """What is going on with the pictures."""
        self.words.setText(words)
        self.words.setVisible(bool(words))

    def give_up(self) -> None:
        """There are no pictures to show."""
        self.show_button.setChecked(self.grid.shown)
        self.say("")

    def close_grid(self) -> None:
        """The viewer as it was before."""
        self.show_button.setChecked(False)
        self._choices.hide()
        self.say("")
        self.grid.leave()

    def _toggle(self, on: bool) -> None:
        if on:
            self.asked.emit(self.image.value() - 1)
        else:
            self.close_grid()

    def _choose(self) -> None:
        self.grid.choose(str(self.what.currentData()))
