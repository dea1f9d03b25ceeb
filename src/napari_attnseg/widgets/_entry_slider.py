"""A slider through the pictures of one map; its left end is what they have in common."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QSlider, QWidget

from napari_attnseg.viewer.level_stacks import FIRST, WINS

PAGE = 10
"""Page keys go so many parts of the whole."""


class EntrySlider(QWidget):
    """``chosen`` carries the picture that the person moved to, from 0 on, or ``FIRST``."""

    chosen = Signal(int)

    def __init__(self, first: str, names: tuple[str, ...], parent: QWidget | None = None) -> None:
        """``first``: words for the left end; ``names`` of the pictures."""
        super().__init__(parent)
        self.first, self.names = first, names
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setMinimumWidth(60)
        self.label = QLabel()
        self.label.setMinimumWidth(120)  # the longest words: the slider keeps its length
        grid = QGridLayout(self)
        grid.setContentsMargins(22, 0, 0, 2)  # under the words of its box
        grid.addWidget(self.slider, 0, 0)
        grid.addWidget(self.label, 0, 1)
        grid.setColumnStretch(0, 1)
        self.set_names(names)
        self.slider.valueChanged.connect(self._on_moved)

    @property
    def entry(self) -> int:
        """The picture it stands at."""
        return int(self.slider.value())

    def set_names(self, names: tuple[str, ...]) -> None:
        """Other pictures: the position stays where there still is one."""
        self.names = names
        with QSignalBlocker(self.slider):
            self.slider.setRange(FIRST, len(names) - 1)
            self.slider.setPageStep(max(1, len(names) // PAGE))
        self._tell()

    def set_entry(self, entry: int) -> None:
        """Move without a signal."""
        with QSignalBlocker(self.slider):
            self.slider.setValue(entry)
        self._tell()

    def _tell(self) -> None:
        self.label.setText(self._words())
        many = len(self.names)
        common = "labels say which wins where" if self.first == WINS else f"the mean of {many}"
        tip = f"Left end: {common}. Then one picture after the other; arrow keys go by one."
        self.slider.setToolTip(tip)
        self.label.setToolTip(tip)

    def _words(self) -> str:
        if self.entry == FIRST:
            return self.first if self.first == WINS else f"{self.first} of {len(self.names)}"
        name = self.names[self.entry]
        counted = name.rpartition(" ")[2] == str(self.entry + 1)
        return f"{name} of {len(self.names)}" if counted else name

    def _on_moved(self, entry: int) -> None:
        self._tell()
        self.chosen.emit(entry)
