"""The part of the Measure dock that tidies a mask: largest parts, holes; Ctrl+Z takes it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.tidying import FILL_2D, FILL_3D, KEEP_LARGEST
from napari_attnseg.viewer.measure_steps import TITLES, tidy_layer
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets._parts import LayerCombo, button, hint, narrow, row

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.viewer.hub import Hub


class TidyPart(QWidget):
    """Two buttons, and what they changed. ``mask``: the choice of the layer they work on."""

    changed = Signal()
    failed = Signal(str)

    def __init__(self, hub: Hub, mask: LayerCombo) -> None:
        super().__init__()
        self._hub, self._mask = hub, mask
        self.largest = button(
            "Keep largest part", "Of a class only its largest connected part stays"
        )
        self.which = narrow(QComboBox())
        self.which.setToolTip("Whose parts; of two kidneys in one class one would go")
        self.show_classes({})
        self.holes = button(
            "Fill holes",
            "Background that a class encloses becomes that class; other classes stay",
        )
        self.where = narrow(QComboBox())
        self.where.addItem("in 3D", FILL_3D)
        self.where.addItem("in each slice", FILL_2D)
        self.where.setToolTip("A hole is closed on all sides, or within its slice alone")
        self.said = hint("Each is one step: Ctrl+Z takes it back.")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(row(self.largest, self.which, stretch=1))
        box.addWidget(row(self.holes, self.where, stretch=1))
        box.addWidget(self.said)
        self.largest.clicked.connect(lambda: self.apply(KEEP_LARGEST))
        self.holes.clicked.connect(lambda: self.apply(str(self.where.currentData())))
        mask.layer_changed.connect(self._on_mask)
        self._on_mask(mask.layer)

    def show_classes(self, names: Mapping[int, str]) -> None:
        """The classes to choose from; the choice stays where it can."""
        chosen = self.which.currentData()
        self.which.clear()
        self.which.addItem("of every class", None)
        for id, name in names.items():
            self.which.addItem(f"of {name}", id)
        self.which.setCurrentIndex(max(0, self.which.findData(chosen)))

    def apply(self, step: str) -> None:
        """Do one step on the chosen mask, behind the window."""
        layer: Labels | None = self._mask.layer
        if layer is None:
            return
        self._enable(False)
        self.said.setText("Working ...")
        try:
            tidy_layer(
                layer,
                self._results_of(layer),
                step,
                to_main_thread,
                lambda pixels: self._on_done(step, pixels),
                self._on_failed,
                self.which.currentData() if step == KEEP_LARGEST else None,
            )
        except (AttnSegError, MemoryError) as error:
            self._on_failed(str(error))

    def _results_of(self, layer: Labels) -> Any:
        """The results whose labels the layer is: their hand edits and their undo are used."""
        known = [self._hub.results, *self._hub.former_results]
        return next((r for r in known if r is not None and r.layer("labels") is layer), None)

    def _on_done(self, step: str, pixels: int) -> None:
        if not isalive(self):
            return
        self._enable(True)
        words = f"{pixels:,} pixels changed; Ctrl+Z takes it back" if pixels else "nothing to do"
        self.said.setText(f"{TITLES[step].capitalize()}: {words}.")
        self.changed.emit()

    def _on_failed(self, sentence: str) -> None:
        if isalive(self):
            self._enable(True)
            self.said.setText("")
            self.failed.emit(sentence)

    def _enable(self, on: bool) -> None:
        for part in (self.largest, self.which, self.holes, self.where):
            part.setEnabled(on)

    def _on_mask(self, layer: Labels | None) -> None:
        self.where.setVisible(layer is not None and layer.ndim == 3)
