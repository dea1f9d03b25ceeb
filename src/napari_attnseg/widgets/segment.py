"""Segment dock: choose image and model, Run, look, correct, count, export."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._after import AfterPanel
from napari_attnseg.widgets._bridge import ActivityProgress, Paced, connect_alive, time_left
from napari_attnseg.widgets._choose import ChoosePanel, complaining, sample_for
from napari_attnseg.widgets._parts import button, hint, later, scrolling, set_shortcut
from napari_attnseg.widgets._tiles import TilesOffer
from napari_attnseg.widgets.diagnose import ErrorBar

if TYPE_CHECKING:
    from napari.viewer import Viewer

RUN_KEYS = "Ctrl+Return"
WARM_UP_MS = 700
"""The engine starts (in its own process) this long after the dock is shown."""


class SegmentWidget(QWidget):
    """The dock. All work goes through ``hub``, which other docks of the viewer share."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.errors = ErrorBar()
        self.choose = ChoosePanel(self.hub, self.errors.show_error)
        self.after = AfterPanel(self.hub, self.errors.show_error)
        self.run = button(
            "Run", "Segment the visible slice first, then the others; press again to stop", RUN_KEYS
        )
        self.run.setMinimumHeight(34)
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.status = hint()
        self.tiles = TilesOffer(self.hub)
        self.activity = ActivityProgress(self.hub.live)
        self._began = 0.0
        self._paced = Paced(1.5)
        self._warmed = False
        self._lay_out()
        self._listen()
        self._idle()

    def sizeHint(self) -> QSize:
        """As wide as napari's own controls."""
        return QSize(300, 640)

    def minimumSizeHint(self) -> QSize:
        """Usable down to this size; everything else scrolls."""
        return QSize(240, 200)

    def _lay_out(self) -> None:
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(8)
        for widget in (self.choose, self.run, self.progress, self.status, self.errors):
            box.addWidget(widget)
        box.addWidget(self.tiles)
        box.addWidget(self.after)
        box.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scrolling(content))

    def _listen(self) -> None:
        live = self.hub.live
        self.run.clicked.connect(self.run_or_cancel)
        connect_alive(self, live.busy_changed, self._on_busy)
        connect_alive(self, live.started, self._on_started)
        connect_alive(self, live.slice_done, self._on_slice)
        connect_alive(self, live.finished, self._on_finished)
        connect_alive(self, live.failed, self._on_failed)
        connect_alive(self, live.note, self.errors.show_note)
        connect_alive(self, live.engine_lost, self._on_lost)

    def showEvent(self, event: Any) -> None:
        """Start the engine soon after the dock is seen, so that the first Run is quick."""
        super().showEvent(event)
        if not self._warmed:
            self._warmed = True
            later(self, WARM_UP_MS, self._warm_up)

    def _warm_up(self) -> None:
        if not self.hub.closed:
            self.hub.live.describe()
            self.hub.live.diagnose(self.hub.device)

    # --- run ------------------------------------------------------------------------------------

    def run_or_cancel(self) -> None:
        """Run when idle, cancel when busy."""
        if self.hub.live.state.busy:
            self.hub.cancel()
            self.run.setText("Cancelling...")
            self.run.setEnabled(False)
            return
        self.errors.clear()
        with complaining(self.errors.show_error):
            if self.hub.source is None:
                self.open_sample()
            self.hub.run()

    def open_sample(self, key: str = "") -> None:
        """Open the shipped sample that suits the chosen model."""
        from napari.layers import Layer

        from napari_attnseg.viewer import samples

        make = (
            samples.ct_phantom
            if (key or sample_for(self.hub.card)) == "phantom"
            else (samples.nuclei)
        )
        layers = [self.hub.viewer.add_layer(Layer.create(*data)) for data in make()]
        self.hub.set_source(layers[0])

    # --- answers --------------------------------------------------------------------------------

    def _on_busy(self, busy: bool) -> None:
        self.run.setEnabled(True)
        set_shortcut(self.run, "Cancel" if busy else "Run", RUN_KEYS)
        if busy:
            self._began = time.monotonic()
            self.progress.setRange(0, 0)
            self.progress.show()
            self._say("Starting the engine ..." if self.hub.client.pid is None else "Preparing ...")
        else:
            self.progress.hide()

    def _on_started(self, event: Any) -> None:
        self._began = time.monotonic()
        self.progress.setRange(0, event.total)
        self.progress.setValue(0)
        if event.device and event.device not in self.choose.badge.text().lower():
            self.choose.badge.set_device(event.device)
        self._say(f"Segmenting on {event.device} ...")

    def _on_slice(self, event: Any) -> None:
        if not self._paced.due(event.done, event.total):
            return
        self.progress.setValue(event.done)
        seconds = time.monotonic() - self._began
        left = time_left(event.done, event.total, seconds)
        self._say(f"Slice {event.done} of {event.total}" + (f", {left}" if left else ""))

    def _on_finished(self, event: Any) -> None:
        seconds = time.monotonic() - self._began
        results = self.hub.results
        if event.reason == "cancelled":
            self._say("Cancelled; finished slices stay.")
        elif results is not None:
            depth = results.shape[0]
            what = "Image" if depth == 1 else f"{depth} slices"
            self._say(f"{what} segmented in {seconds:.1f} s.")
        self.after.follow(results)

    def _on_failed(self, event: Any) -> None:
        if not self.hub.live.state.busy:  # else a small question failed and the run goes on
            self._idle()
        self.errors.show_error(event.message, event.report)

    def _on_lost(self, cause: str) -> None:
        self._say("")
        self.errors.show_error(
            f"The engine stopped: {cause}. Finished slices and your layers stay; "
            "press Run to start it again."
        )

    def _idle(self) -> None:
        self.progress.hide()
        self._say("")

    def _say(self, words: str) -> None:
        self.status.setText(words)
        self.status.setVisible(bool(words))
