"""Along which axis of a volume the model's slices are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_attnseg.control.volumes import ALL_AXES, AXES
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import Field, hint, narrow

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.viewer.hub import Hub

TIP = (
    "Along which axis the model goes through the volume. Coronal and sagittal slices are brought "
    "to square pixels and stand with the head at the top. All three: the probabilities of every "
    "voxel are averaged, which takes three times as long for a cube, longer for a flat volume. A "
    "model that learnt on axial slices alone may find less along the others: look before you "
    "trust it."
)
WORDS = {
    "axial": "Axial (slice by slice)",
    "coronal": "Coronal",
    "sagittal": "Sagittal",
    ALL_AXES: "All three, averaged (slow)",
}
LATER = "The mask appears when all slices are done; values count from the next Run on."


class AxisChoice(QWidget):
    """A combo that is there for volumes and models of slices alone."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.combo = narrow(QComboBox())
        for name in (*AXES, ALL_AXES):
            self.combo.addItem(WORDS[name], name)
        self.later = hint(LATER)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(Field("Slices", self.combo, TIP))
        box.addWidget(self.later)
        self.combo.activated.connect(lambda i: hub.live.set_along(self.combo.itemData(i)))
        connect_alive(self, hub.source_changed, lambda _: self.follow())
        connect_alive(self, hub.model_changed, lambda _: self.follow())
        connect_alive(self, hub.live.state_changed, lambda _: self.follow())
        self.follow()

    def follow(self) -> None:
        """Show what is chosen, where there is a choice."""
        live, source = self.hub.live, self.hub.source
        able = not is_3d(self.hub.card) and source is not None and depth_of(source) > 1
        if not able and is_3d(self.hub.card) and live.state.along != AXES[0]:
            live.set_along(AXES[0])
        with QSignalBlocker(self.combo):
            self.combo.setCurrentIndex(self.combo.findData(live.state.along))
        self.later.setVisible(live.state.along != AXES[0])
        self.setVisible(able)


def is_3d(card: Card | None) -> bool:
    """Whether a model sees volumes as a whole."""
    return card is not None and dict(card.spec.get("options", {})).get("ndim") == 3


def depth_of(layer: Any) -> int:
    """Slices of an image layer, 1 where it has no third axis (or more than three)."""
    data = layer.data[0] if layer.multiscale else layer.data
    return int(data.shape[0]) if layer.ndim == 3 else 1
