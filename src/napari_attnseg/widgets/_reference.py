"""The labels that the curves are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.widgets._compare import reference_slice
from napari_attnseg.widgets._parts import Field, LayerCombo, Section

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import ViewerModel

TIP = "Labels to be compared with: Dice and IoU join the curves"
_EDITS = ("data", "paint", "labels_update")


class ReferencePanel(QWidget):
    """A labels layer or none; ``chosen`` when another one is, ``edited`` when it is painted on."""

    chosen = Signal()
    edited = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.combo = LayerCombo(viewer, ("labels",), optional="none")
        self.layer: Labels | None = None
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(Section("Reference", Field("Labels layer", self.combo, TIP)))
        self.combo.layer_changed.connect(self._on_chosen)

    def slice(self, shape: tuple[int, ...], z: int) -> NDArray[np.uint16] | None:
        """Class ids (Y, X) of slice ``z``, ``None`` without a reference.

        Raises ``InputError`` for labels of another size than the image's ``shape`` (Z, Y, X).
        """
        return None if self.layer is None else reference_slice(self.layer, shape, z)

    def _on_chosen(self, layer: Any) -> None:
        if self.layer is not None:
            for name in _EDITS:
                getattr(self.layer.events, name).disconnect(self._on_edited)
        self.layer = layer
        if layer is not None:
            for name in _EDITS:
                getattr(layer.events, name).connect(self._on_edited)
        self.chosen.emit()

    def _on_edited(self, event: Any = None) -> None:
        self.edited.emit()
