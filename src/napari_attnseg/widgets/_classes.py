"""The classes of a training: names, colours, painted pixels, and which one the brush has."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_attnseg.viewer.strokes import class_color
from napari_attnseg.widgets._parts import button, row

MOST = 32


class _ClassRow(QWidget):
    """Swatch (a brush button when strokes are painted), name, count of painted pixels."""

    def __init__(self, index: int, name: str) -> None:
        super().__init__()
        self.swatch = QPushButton()
        self.swatch.setFixedSize(26, 22)
        self.swatch.setCheckable(True)
        self.swatch.setToolTip("Colour of this class in the layers")
        self.swatch.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.name = QLineEdit(name)
        self.name.setMinimumWidth(60)
        self.name.setToolTip("Name of this class in layers, exports and the model's card")
        self.name.setReadOnly(index == 0)
        self.count = QLabel()
        self.count.setMinimumWidth(56)
        self.count.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.count.setToolTip("Labelled pixels of this class")
        color = class_color(index)
        self.swatch.setStyleSheet(
            f"QPushButton {{ background: {color}; border: 1px solid rgba(128,128,128,160);"
            " border-radius: 4px;"
            " color: #101418; font-weight: bold; padding: 0px; }"
        )
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(6)
        line.addWidget(self.swatch)
        line.addWidget(self.name, 1)
        line.addWidget(self.count)


class ClassList(QWidget):
    """Background and at least one class."""

    names_changed = Signal(tuple)
    picked = Signal(int)  # class index: paint with it

    def __init__(self, names: Sequence[str] = ("background", "nuclei")) -> None:
        super().__init__()
        self._rows: list[_ClassRow] = []
        self._box = QVBoxLayout()
        self._box.setSpacing(3)
        self.more = button("Add class", "One more class to be found")
        self.less = button("Remove last", "Forget the last class (painted pixels stay)")
        self.more.clicked.connect(self._add_one)
        self.less.clicked.connect(self._drop_one)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(self._box)
        box.addWidget(row(self.more, self.less, stretch=-1))
        self.set_names(names)

    @property
    def names(self) -> tuple[str, ...]:
        """Background first; an empty field counts as "class N"."""
        given = [r.name.text().strip() or f"class {i}" for i, r in enumerate(self._rows)]
        return tuple(given)

    def set_names(self, names: Sequence[str]) -> None:
        """Show these classes."""
        wanted = list(names[:MOST])
        if tuple(wanted) == self.names:
            return
        while len(self._rows) > len(wanted):
            gone = self._rows.pop()
            self._box.removeWidget(gone)
            gone.deleteLater()
        for i, name in enumerate(wanted):
            if i == len(self._rows):
                self._append(i, name)
            with QSignalBlocker(self._rows[i].name):
                self._rows[i].name.setText(name)
        self.less.setEnabled(len(self._rows) > 2)
        self.more.setEnabled(len(self._rows) < MOST)
        self.names_changed.emit(self.names)

    def set_brush(self, index: int | None, possible: bool) -> None:
        """Mark the class that the brush paints; without strokes the swatches only show colours."""
        for i, line in enumerate(self._rows):
            line.swatch.setChecked(possible and i == index)
            line.swatch.setText("✎" if possible and i == index else "")
            line.swatch.setToolTip(
                f"Paint {self.names[i]}" if possible else "Colour of this class in the layers"
            )

    def set_counts(self, counts: Sequence[int] | None) -> None:
        """Show painted pixels per class; ``None``: unknown."""
        for i, line in enumerate(self._rows):
            known = counts is not None and i < len(counts)
            line.count.setText(f"{counts[i]:,} px" if known and counts is not None else "")

    def _append(self, index: int, name: str) -> None:
        line = _ClassRow(index, name)
        line.name.editingFinished.connect(lambda: self.names_changed.emit(self.names))
        line.swatch.clicked.connect(lambda: self.picked.emit(index))
        self._rows.append(line)
        self._box.addWidget(line)

    def _add_one(self) -> None:
        self.set_names((*self.names, f"class {len(self._rows)}"))

    def _drop_one(self) -> None:
        self.set_names(self.names[:-1])
