"""What every dock is: as wide as napari's own controls, and awake soon after it is first seen."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QWidget

from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.warming import tidy_up, warm_labels
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets._foot import LEAST_WIDTH
from napari_attnseg.widgets._parts import later

WARM_UP_MS = 700
"""Time for the window to be drawn before an engine starts beside it."""


class Dock(QWidget):
    """A dock of one viewer; all its work goes through ``hub``, which the others share.

    ``TALL``: the height it asks for, ``LOW``: the least one, in pixels; everything else scrolls.
    """

    hub: Hub
    TALL, LOW = 640, 200
    _warmed = False

    def sizeHint(self) -> QSize:
        """As wide as napari's own controls."""
        return QSize(300, self.TALL)

    def minimumSizeHint(self) -> QSize:
        """Usable down to this size."""
        return QSize(LEAST_WIDTH, self.LOW)

    def showEvent(self, event: Any) -> None:
        """Wake the engine a moment after the dock is first seen, so that its answers are quick."""
        super().showEvent(event)
        if not self._warmed:
            self._warmed = True
            later(self, WARM_UP_MS, self._wake)

    def _wake(self) -> None:
        if not self.hub.closed:
            self.warm_up()

    def warm_up(self) -> None:
        """What to ask of the engine first: what there is, and on which device; and what the
        first labels layer needs."""
        warm_labels(lambda: to_main_thread(tidy_up))
        self.hub.live.describe()
        self.hub.live.diagnose(self.hub.device)
