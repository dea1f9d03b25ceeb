"""Beside "Ask a pixel": keep the pixel under the ring, and take the kept ones away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_attnseg.viewer.query import AttentionQuery
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import button


class KeepButtons(QWidget):
    """Each is there only while it can do something."""

    def __init__(self, query: AttentionQuery, attempt: Callable[[Callable[[], None]], Any]) -> None:
        """``attempt`` calls and shows what goes wrong."""
        super().__init__()
        self.query = query
        self.keep = button(
            "Keep it", "The pixel under the ring stays asked, beside the next ones (Shift+click)"
        )
        self.clear = button("Clear", "Take the numbered pixels and their maps away")
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.keep)
        line.addWidget(self.clear)
        self.keep.clicked.connect(lambda: attempt(query.keep))
        self.clear.clicked.connect(query.kept.clear)
        connect_alive(self, query.toggled, lambda _: self._follow())
        connect_alive(self, query.kept.changed, self._follow)
        self._follow()

    def _follow(self) -> None:
        on, kept = self.query.on, len(self.query.kept.pixels)
        self.keep.setVisible(on)
        self.clear.setVisible(kept > 0)
        self.clear.setText(f"Clear {kept} kept")
        self.setVisible(on or kept > 0)
