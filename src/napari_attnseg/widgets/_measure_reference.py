"""The part of the Measure dock that compares with a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QLabel, QVBoxLayout, QWidget

from napari_attnseg.io.agreement import Agreement
from napari_attnseg.io.measure_space import TOLERANCE_MM, TOLERANCE_PIXELS, Space
from napari_attnseg.viewer.measure_layers import ERROR_COLOURS, ERROR_NAMES
from napari_attnseg.widgets._measure_table import AgreementTable
from napari_attnseg.widgets._parts import Field, LayerCombo, button, hint, row

AUTO = 0.0


class ReferencePart(QWidget):
    """Choice of a reference and tolerance, the table, and the error map with its colours."""

    changed = Signal()
    map_asked = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.layer = LayerCombo(viewer, ("labels",), results=True, optional="none")
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setRange(AUTO, 1000.0)
        self.tolerance.setDecimals(2)
        self.tolerance.setSingleStep(0.5)
        self.tolerance.setKeyboardTracking(False)
        self.tolerance.setSpecialValueText("default")
        self.tolerance.setToolTip(
            f"How far apart two surfaces may be and still agree: {TOLERANCE_MM:g} mm by default, "
            f"{TOLERANCE_PIXELS:g} pixels in a picture or where no voxel size is known"
        )
        self.table = AgreementTable()
        self.error_map = button("Show error map", "A layer that says where the two masks differ")
        self.legend = QLabel()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setWordWrap(True)
        self.legend.setText(legend_words())
        self.used = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        tip = "Labels of the same image that are taken for right"
        box.addWidget(Field("Reference", self.layer, tip))
        self._more = (self.table, self.used, self.error_map)
        self._line = row(QLabel("Tolerance"), self.tolerance, stretch=1)
        for part in (self._line, *self._more, self.legend):
            box.addWidget(part)
        self.layer.layer_changed.connect(lambda _: self.changed.emit())
        self.tolerance.valueChanged.connect(lambda _: self.changed.emit())
        self.error_map.clicked.connect(self.map_asked.emit)
        self.empty()

    @property
    def wanted(self) -> float | None:
        """The tolerance that was chosen; ``None``: the default of the space."""
        return self.tolerance.value() or None

    def empty(self) -> None:
        """Nothing is compared."""
        self._line.setVisible(self.layer.layer is not None)
        for part in (*self._more, self.legend):
            part.hide()

    def show_agreements(
        self, found: Sequence[Agreement], space: Space, colors: Mapping[int, Any], note: str = ""
    ) -> None:
        """The answer for the chosen reference; ``note``: how that was read."""
        self._line.show()
        self.table.show_agreements(found, colors)
        used = found[0].tolerance if found else space.default_tolerance
        words = f"HD95 in {space.unit}, surface Dice within {used:g} {space.unit}"
        self.used.setText(f"{words}; {note}" if note else words)
        for part in self._more:
            part.show()


def legend_words() -> str:
    """The colours of the error map."""
    return " &nbsp; ".join(
        f"<span style='color:{color}'>■</span>&nbsp;{ERROR_NAMES[id].replace(' ', '&nbsp;')}"
        for id, color in ERROR_COLOURS.items()
    )
