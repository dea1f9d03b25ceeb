"""The device badge of a dock: tells where the engine computes, and opens the Diagnose dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets.diagnose import DeviceBadge, DiagnoseDialog

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub


class EngineBadge(DeviceBadge):
    """A badge that follows the live engine of ``hub``; ``dialog`` is there once it was opened."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.dialog: DiagnoseDialog | None = None
        self.clicked.connect(self.diagnose)
        connect_alive(self, hub.live.diagnosed, self._on_diagnosed)

    def diagnose(self) -> None:
        """Open the Diagnose dialog and ask the engine."""
        if self.dialog is None:
            live, hub = self.hub.live, self.hub
            self.dialog = DiagnoseDialog(lambda: live.diagnose(hub.device), self)
        self.dialog.show()
        self.dialog.raise_()
        self.dialog.refresh()

    def _on_diagnosed(self, event: Any) -> None:
        self.set_report(event.report)
        if self.dialog is not None:
            self.dialog.show_report(event.report, event.text)
