"""Smaller image tiles where memory ran out: offered, never taken without the person's consent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QCheckBox

from napari_attnseg.widgets._bridge import connect_alive

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

TIP = (
    "A global attention sees one tile at a time, so the answer is not that of the whole image; "
    "an exported mask says so. Attention maps and curves need the whole image."
)


class TilesOffer(QCheckBox):
    """Hidden until memory runs out; another image or model takes the consent back."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.tile = 0
        self.setToolTip(TIP)
        self.hide()
        self.toggled.connect(self._on_toggled)
        connect_alive(self, hub.live.failed, self._on_failed)
        connect_alive(self, hub.source_changed, lambda _: self._offer(0))
        connect_alive(self, hub.model_changed, lambda _: self._offer(0))

    def _on_failed(self, event: Any) -> None:
        if event.tile:
            self._offer(event.tile)

    def _offer(self, tile: int) -> None:
        self.tile = tile
        self.setChecked(False)
        self.setText(f"Use {tile} px tiles (changes the answer)")
        self.setVisible(tile > 0)

    def _on_toggled(self, on: bool) -> None:
        self.hub.live.set_tile(self.tile if on else 0)
