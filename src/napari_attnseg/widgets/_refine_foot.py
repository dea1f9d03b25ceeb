"""What stays in sight under the Refine dock: the last answer, progress of a volume, the export."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._moving import move_bar
from napari_attnseg.widgets._parts import hint
from napari_attnseg.widgets._tune_foot import slice_words

if TYPE_CHECKING:
    from napari_attnseg.viewer.refine_work import RefineWork


class RefineLine(QWidget):
    """``"Slice 17: 887 px in 12 ms"``, and how many slices have the present values."""

    def __init__(self, work: RefineWork) -> None:
        super().__init__()
        self.work = work
        self._asked_at = 0.0
        self._answer = ""
        self._first = False
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.progress.setToolTip("Slices that are refined")
        self.words = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.progress)
        box.addWidget(self.words)
        hub = work.hub
        for changed in (hub.slice_changed, hub.source_changed):
            connect_alive(self, changed, lambda _: self.forget())
        connect_alive(self, work.chosen, self.forget)
        connect_alive(self, work.refined, self._on_refined)
        connect_alive(self, work.changed, self.show_progress)
        self.forget()
        self.show_progress()

    def asked(self) -> None:
        """A hand moved something: the time runs until the next answer."""
        cold = self.work.hub.client.pid is None
        self._asked_at = self._asked_at or time.perf_counter()
        if not self.work.begun:
            self._first = True  # the engine or the model is still on its way: no answer's time
            self._say("Starting the engine ..." if cold else "Refining ...")

    def forget(self) -> None:
        """The figures belong to another slice, image or refinement."""
        self._asked_at, self._answer = 0.0, ""
        self._say("")

    def show_progress(self) -> None:
        """The bar while other slices are refined."""
        walk = self.work.walk
        self.progress.setVisible(bool(walk) and walk.total > 1)
        if walk:
            self.progress.setRange(0, walk.total)
            move_bar(self.progress, walk.done)
        self._show()

    def _on_refined(self, event: Any) -> None:
        if event.z != self.work.hub.visible_z():
            return
        held = f", {event.anchored:,} held" if event.anchored else ""
        self._answer = f"{slice_words(self.work.hub, event.z)}: {event.area:,} px{held}"
        if self._asked_at:
            took = (time.perf_counter() - self._asked_at) * 1000.0
            self._answer += "" if self._first else f" in {took:.0f} ms"
            self._asked_at, self._first = 0.0, False
        stages = " → ".join(event.woken) or "none, all was known"
        self.words.setToolTip(
            f"Foreground of the refined mask, hand edits not counted.\nStages that ran: {stages}. "
            f"In the engine: {event.seconds * 1000:.0f} ms."
        )
        self._show()

    def _show(self) -> None:
        depth, fresh = self.work.depth, len(self.work.fresh)
        parts = [self._answer[:1].upper() + self._answer[1:]] if self._answer else []
        if depth > 1 and self.work.begun:
            walk = self.work.walk
            if walk:
                parts.append(f"slice {walk.done} of {walk.total}")
            elif fresh < depth:
                parts.append(f"{fresh} of {depth} slices have these values")
        if parts or not self._asked_at:
            self._say(" · ".join(parts))

    def _say(self, words: str) -> None:
        if self.words.text() != words:
            self.words.setText(words)
        self.words.setVisible(bool(words))


def unfinished(work: RefineWork) -> str:
    """Why the refined mask cannot be exported yet; ``""`` when it can."""
    missing = work.depth - len(work.fresh)
    if work.depth > 1 and missing:
        return (
            f"{missing} of {work.depth} slices are not refined with the present values, so the "
            "file would be a mixture; press Refine all slices first"
        )
    return ""
