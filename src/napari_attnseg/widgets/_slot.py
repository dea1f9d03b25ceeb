"""The place above Run: what a run would cost, how far it is, what came of it, and calm words.

It keeps its height, so that Run stays where it is whatever is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.widgets._before import CostLine
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._foot import WorkLine
from napari_attnseg.widgets.diagnose import sentence

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

HEIGHT = 46
"""Pixels of a bar and two lines."""


class RunSlot(QWidget):
    """A :class:`WorkLine` or a :class:`CostLine`: whichever spoke last."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.work, self.cost = WorkLine(hub), CostLine(hub)
        self._live = hub.live
        self._after = ""
        self.setMinimumHeight(HEIGHT)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addStretch(1)
        box.addWidget(self.work)
        box.addWidget(self.cost)
        self.cost.said.connect(self._on_cost)
        connect_alive(self, hub.live.finished, self._on_finished)
        for changed in (hub.source_changed, hub.model_changed):
            connect_alive(self, changed, lambda _: self._forget())

    def tell(self, words: str) -> None:
        """Something that is no problem, until the next thing is said."""
        told = sentence(words) + ("" if words.endswith(".") else ".")
        bar = self.work.progress
        if self._live.state.busy and bar.value() == bar.maximum() > 0:
            self._after = told  # of a run that is over: told with its outcome
            return
        self.cost.clear()
        self.work.say(told)

    def _on_finished(self, event: Any) -> None:
        after, self._after = self._after, ""
        if after and event.reason == "done":
            self.work.say(f"{self.work.status.text()} {after}".strip())

    def _forget(self) -> None:
        """What was said is about another image or model."""
        if not self._live.state.busy:
            self.work.idle()

    def _on_cost(self, words: str) -> None:
        if words:
            self._forget()
