"""Segment dock: choose image and model, Run, look, correct, count, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.control.message_base import Calm
from napari_attnseg.viewer.former import former_for
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._after import AfterPanel
from napari_attnseg.widgets._before import DoubtsBlock
from napari_attnseg.widgets._bridge import ActivityProgress, connect_alive
from napari_attnseg.widgets._choose import ChoosePanel, complaining, sample_for
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._foot import with_foot
from napari_attnseg.widgets._openings import openings_for
from napari_attnseg.widgets._parts import button, set_shortcut
from napari_attnseg.widgets._restore import RestoreOffer
from napari_attnseg.widgets._session import SessionPart
from napari_attnseg.widgets._slot import RunSlot
from napari_attnseg.widgets._tiles import TilesOffer
from napari_attnseg.widgets.diagnose import ErrorBar

if TYPE_CHECKING:
    from napari.viewer import Viewer

RUN_KEYS = "Ctrl+Return"


class SegmentWidget(Dock):
    """The dock. All work goes through ``hub``, which other docks of the viewer share."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.errors = ErrorBar()
        self.choose = ChoosePanel(self.hub, self.errors.show_error)
        self.after = AfterPanel(self.hub, self.errors.show_error)
        self.restore = RestoreOffer(self.hub, self.errors.show_info, self.errors.show_error)
        self.run = button(
            "Run", "Segment the visible slice first, then the others; press again to stop", RUN_KEYS
        )
        self.run.setMinimumHeight(34)
        self.slot = RunSlot(self.hub)
        self.work, self.cost = self.slot.work, self.slot.cost
        self.status, self.progress = self.work.status, self.work.progress
        self.session = SessionPart(
            self.hub, self.slot.tell, self.errors.show_info, self.errors.show_error
        )
        self.tiles = TilesOffer(self.hub)
        self.doubts = DoubtsBlock(self.hub)
        self.activity = ActivityProgress(self.hub.live)
        self._lay_out()
        self._listen()
        self.restore.look()

    def _lay_out(self) -> None:
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(8)
        box.addWidget(self.restore)
        box.addWidget(self.choose)
        box.addWidget(self.doubts)
        box.addWidget(self.after)
        box.addWidget(self.session)
        box.addStretch(1)
        with_foot(self, content, self.errors, self.tiles, self.slot, self.run)

    def _listen(self) -> None:
        live = self.hub.live
        self.run.clicked.connect(self.run_or_cancel)
        self.after.exported.connect(lambda _: self.hub.keeper.saved(self.hub.results))
        connect_alive(self, live.busy_changed, self._on_busy)
        connect_alive(self, live.started, self._on_started)
        connect_alive(self, live.finished, self._on_finished)
        connect_alive(self, live.failed, self._on_failed)
        connect_alive(self, live.note, self._on_note)
        connect_alive(self, former_for(self.hub).hidden, self.errors.show_info)
        connect_alive(self, live.engine_lost, self._on_lost)
        openings = openings_for(self.hub.viewer)
        connect_alive(self, openings.began, self.slot.tell)
        connect_alive(self, openings.ended, self._on_opened)

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

    def _on_started(self, event: Any) -> None:
        if event.device and event.device not in self.choose.badge.text().lower():
            self.choose.badge.set_device(event.device)

    def _on_note(self, words: str) -> None:
        if isinstance(words, Calm):
            self.slot.tell(words)
        else:
            self.errors.show_note(words)

    def _on_opened(self, problem: str) -> None:
        if not self.hub.live.state.busy and not openings_for(self.hub.viewer).waiting:
            self.work.idle()
        if problem:
            self.errors.show_error(problem)

    def _on_finished(self, event: Any) -> None:
        self.after.follow(self.hub.results)

    def _on_failed(self, event: Any) -> None:
        if not self.hub.live.state.busy:  # else a small question failed and the run goes on
            self.work.idle()
        self.errors.show_error(event.message, event.report)

    def _on_lost(self, cause: str) -> None:
        self.work.say("")
        self.errors.show_error(
            f"The engine stopped: {cause}. Finished slices and your layers stay; "
            "press Run to start it again."
        )
