"""A real napari window whose event loop is run by hand and whose frames are noticed."""

from __future__ import annotations

import time
from collections.abc import Callable


class Frames:
    """``swapped``: when the canvas last showed a frame (seconds of ``perf_counter``)."""

    swapped = 0.0

    def _on_swapped(self) -> None:
        self.swapped = time.perf_counter()

    def pump(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Run the event loop; true as soon as ``until`` is."""
        from qtpy.QtCore import QEventLoop
        from qtpy.QtWidgets import QApplication

        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            QApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 2)
            if until():
                return True
            time.sleep(0.0005)
        return False
