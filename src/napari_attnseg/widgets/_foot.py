"""The foot of a dock: what must stay in sight while everything above it scrolls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFrame, QProgressBar, QVBoxLayout, QWidget

from napari_attnseg.widgets._bridge import connect_alive, pulse_for, time_left
from napari_attnseg.widgets._moving import MovingWords, move_bar
from napari_attnseg.widgets._parts import hint, scrolling, separator

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

LEAST_WIDTH = 296
"""Pixels below which words would be cut: napari opens a dock as narrow as its minimum."""


class WorkLine(QWidget):
    """A thin progress bar and one line of words about the run of the hub; no room when idle.

    ``keep``: the outcome of a run stays until the next one.
    """

    def __init__(self, hub: Hub, keep: bool = True) -> None:
        super().__init__()
        self.hub = hub
        self._keep = keep
        self._began = 0.0
        self._preparing = ""
        self._told = 0
        self._started = False
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.progress.setToolTip("Slices that are segmented")
        self.moving = MovingWords()
        self.status = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.progress)
        box.addWidget(self.moving)
        box.addWidget(self.status)
        live = hub.live
        connect_alive(self, live.busy_changed, self._on_busy)
        connect_alive(self, live.started, self._on_started)
        connect_alive(self, pulse_for(live).beat, self._on_slice)
        connect_alive(self, live.stepped, self._on_step)
        connect_alive(self, live.finished, self._on_finished)
        self.idle()

    def say(self, words: str) -> None:
        """One line; an empty one takes no room."""
        self.status.setText(words)
        self.status.setVisible(bool(words))
        self.setVisible(bool(words) or not self.progress.isHidden())

    def idle(self) -> None:
        """Nothing runs and there is nothing to tell."""
        self.progress.hide()
        self.moving.hide()
        self.say("")

    def _on_busy(self, busy: bool) -> None:
        if not busy:
            self.progress.hide()
            self.moving.hide()
            kept = self._keep and self.status.text() != self._preparing
            self.say(self.status.text() if kept else "")
            return
        self._began, self._started = time.monotonic(), False
        self.progress.reset()  # one that runs to and fro would compose 60 frames a second
        self.progress.show()
        cold = self.hub.client.pid is None
        self._preparing = "Starting the engine ..." if cold else "Preparing ..."
        self.say(self._preparing)

    def _on_started(self, event: Any) -> None:
        self._began, self._told, self._started = time.monotonic(), 0, True
        self.progress.setRange(0, event.total)
        move_bar(self.progress, min(event.ready, event.total - 1))  # the end is for the end
        self.moving.setText(f"Segmenting on {event.device} ...")
        self.moving.show()
        self.say("")

    def _on_slice(self, event: Any) -> None:
        pulse = pulse_for(self.hub.live)
        self.progress.setMaximum(event.total)
        move_bar(self.progress, pulse.done)
        left = pulse.left(event)
        words = f"Slice {pulse.done} of {event.total}"
        self.moving.setText(f"{words}, {left}" if left else words)

    def _on_step(self, event: Any) -> None:
        """Slices of all axes on the way to the first axial one."""
        if event.done == event.total or event.done - self._told >= event.total // 100:
            self._told = event.done
            self.progress.setRange(0, event.total)
            move_bar(self.progress, event.done)
            left = time_left(event.done, event.total, time.monotonic() - self._began)
            words = f"Slice {event.done} of {event.total} on the way"
            self.moving.setText(f"{words}, {left}" if left else words)

    def _on_finished(self, event: Any) -> None:
        results, pulse = self.hub.results, pulse_for(self.hub.live)
        if not self._keep or results is None:
            self.say("")
        elif event.reason == "cancelled":
            self.say(stopped(pulse.done if self._started else 0, results.shape[0]))
        else:
            took = time.monotonic() - self._began
            self.say(outcome(results.shape[0], event.summary, took, pulse.ready))


def stopped(done: int, depth: int) -> str:
    """``"Cancelled: 63 of 120 slices are done. Run goes on from there."``"""
    if depth == 1:
        return "Cancelled."
    if not done:
        return "Cancelled. Run goes on where it was."
    return f"Cancelled: {done} of {depth} slices are done. Run goes on from there."


def outcome(depth: int, summary: dict[str, Any], seconds: float, ready: int = 0) -> str:
    """``"31 slices segmented in 2.4 s."``, and how many were known from before."""
    what = "Image" if depth == 1 else f"{depth} slices"
    computed = int(summary.get("computed", depth))
    if not computed:
        return f"{what} from memory: nothing has changed."
    before = max(ready, depth - computed)  # one of them may have been made anew for its maps
    known = f", {before} of them known before" if before else ""
    took = f"{seconds:.1f}" if seconds >= 0.1 else "less than 0.1"
    return f"{what} segmented in {took} s{known}."


def with_foot(dock: QWidget, content: QWidget, *foot: QWidget) -> QFrame:
    """Lay out ``dock``: ``content`` scrolls, ``foot`` stays in sight below it. Returns the foot."""
    frame = QFrame()
    box = QVBoxLayout(frame)
    box.setContentsMargins(8, 4, 8, 8)
    box.setSpacing(5)
    box.addWidget(separator())
    for widget in foot:
        box.addWidget(widget)
    outer = QVBoxLayout(dock)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.setSpacing(0)
    outer.addWidget(scrolling(content), 1)
    outer.addWidget(frame)
    return frame
