"""Bake-off: one U-Net with different attention, trained alike, compared in a table and pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QFrame, QProgressBar, QTabWidget, QVBoxLayout, QWidget

from napari_attnseg.control.bakeoff import BakeOff
from napari_attnseg.control.bakeoff_file import read_wish
from napari_attnseg.control.bakeoff_runner import BakeOffController
from napari_attnseg.control.describing import read_description
from napari_attnseg.errors import AttnSegError, plain_sentence
from napari_attnseg.viewer.bakeoff_grid import BakeOffGrid
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._bakeoff_contestants import contestant_name
from napari_attnseg.widgets._bakeoff_pictures import PicturePanel
from napari_attnseg.widgets._bakeoff_setup import SetupPanel
from napari_attnseg.widgets._bakeoff_table import ResultTable
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._moving import MovingWords, move_bar
from napari_attnseg.widgets._parts import button, hint, row, scrolling, separator
from napari_attnseg.widgets._train_words import duration
from napari_attnseg.widgets.diagnose import ErrorBar

if TYPE_CHECKING:
    from napari.viewer import Viewer

NOTHING_YET = (
    "Nothing to show yet. Choose a data set and tick mechanisms under Setup, then press Run: every "
    "contestant becomes a row here, and its figures come as its trainings end. Results of another "
    "day, or of the command line: Open results."
)
FORMAT = 3
"""Of the engine's description (see ``engine.describe``)."""


class BakeOffWidget(Dock):
    """The dock. It shares engine and models with the other docks of its viewer."""

    TALL, LOW = 700, 240

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.work = BakeOffController(self.hub.training.client, self.hub.scratch)
        self.destroyed.connect(lambda *_, work=self.work: work.close())
        self.setup = SetupPanel()
        self.table = ResultTable()
        self.pictures = PicturePanel(BakeOffGrid(self.hub.viewer))
        self.errors = ErrorBar()
        self.names: dict[str, str] = {}
        self._labels: dict[str, str] = {}
        self._under_way = ("", 0)
        self._began = 0.0
        self._seen = self.setup.values
        self._make_parts()
        self._lay_out()
        self._listen()
        known = read_description()
        if known is not None:
            self._on_described(known)
        self._on_busy(False)

    def warm_up(self) -> None:
        """Ask which mechanisms there are."""
        self.hub.live.describe()

    def _make_parts(self) -> None:
        self.empty = hint(NOTHING_YET)
        self.said = hint()
        self.open = button("Open folder", "The table as CSV and Markdown, pictures, networks")
        self.load = button(
            "Open results...", "A folder that this dock or napari-attnseg compare has written"
        )
        self.run = button("Run", "Train and test every contestant; press again to stop")
        self.run.setMinimumHeight(34)
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.progress.setToolTip("Trainings that are over")
        self.moving = MovingWords()
        self.status = hint()

    def _lay_out(self) -> None:
        results = QWidget()
        inside = QVBoxLayout(results)
        inside.setContentsMargins(8, 8, 8, 8)
        inside.setSpacing(6)
        inside.addWidget(self.empty)
        for part in (self.table, self.said, self.pictures, row(self.open, self.load, stretch=-1)):
            inside.addWidget(part)
        inside.addStretch(1)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)  # napari's style draws it as a white line
        self.tabs.addTab(scrolling(self.setup), "Setup")
        self.tabs.addTab(scrolling(results), "Results")
        foot = QFrame()
        low = QVBoxLayout(foot)
        low.setContentsMargins(8, 4, 8, 8)
        low.setSpacing(5)
        for part in (separator(), self.errors, self.moving, self.status, self.progress):
            low.addWidget(part)
        low.addWidget(row(self.run))
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(self.tabs, 1)
        outer.addWidget(foot)
        for widget in (self.table, self.said, self.pictures, self.open):
            widget.hide()

    def _listen(self) -> None:
        self.run.clicked.connect(self.run_or_cancel)
        self.open.clicked.connect(self._open_folder)
        self.load.clicked.connect(self._choose_results)
        self.setup.changed.connect(self._on_setup)
        self.table.chosen.connect(self.use_model)
        self.pictures.asked.connect(self.ask_pictures)
        work = self.work
        connect_alive(self, self.hub.live.described, self._on_described)
        connect_alive(self, work.busy_changed, self._on_busy)
        connect_alive(self, work.started, self._on_started)
        connect_alive(self, work.planned, self._on_planned)
        connect_alive(self, work.step, self._on_step)
        connect_alive(self, work.row, self._on_row)
        connect_alive(self, work.finished, self._on_finished)
        connect_alive(self, work.failed, self._on_failed)
        connect_alive(self, work.engine_lost, self._on_lost)
        connect_alive(self, work.pictures, self._on_pictures)

    # --- what a person can do -----------------------------------------------------------------

    def run_or_cancel(self) -> None:
        """Run when idle, or go on with what was stopped; cancel when busy."""
        if self.work.busy:
            self.run.setText("Cancelling ...")
            self.run.setEnabled(False)
            self.work.stop()
            return
        self.errors.clear()
        try:
            wish = self.setup.wish(self.hub.device)
            self.setup.keep()
            self.pictures.close_grid()
            self.work.start(wish)
        except (AttnSegError, OSError) as error:
            self._fail(plain_sentence(error) or str(error))

    def open_results(self, folder: str) -> None:
        """Show what lies in ``folder``; what is missing of it waits for the button below."""
        self.errors.clear()
        try:
            self.setup.open(read_wish(folder))
        except AttnSegError as error:
            self._fail(str(error))
            return
        total, kept = self.setup.runs
        if kept == total:
            self.run_or_cancel()
            return
        self._say(
            f"{kept} of its {total} trainings are done. Press the button below to show them "
            "and go on with the others."
        )

    def use_model(self, key: str) -> None:
        """The network of a row (of its first seed) becomes the model of all docks."""
        found = self.table.rows[key]
        if not found.model:
            self._say(f"{found.name} is not trained yet; wait for its first training.")
            return
        try:
            self.hub.add_model(found.model)
            self.hub.set_model(found.model)
        except AttnSegError as error:
            self.errors.show_error(str(error))
            return
        self._say(f"{found.name} (seed 0) is now the model of Segment, Tune and Refine.")

    def ask_pictures(self, index: int) -> None:
        """Bring masks and maps of all contestants on a test image into the viewer."""
        try:
            wish = self.work.request or self.setup.wish(self.hub.device)
        except AttnSegError as error:
            self.pictures.give_up()
            self.errors.show_error(str(error))
            return
        self.pictures.say("Drawing the pictures ...")
        self.work.ask_pictures(wish, index)

    def _choose_results(self) -> None:
        start = self.setup.values["root"]
        folder = QFileDialog.getExistingDirectory(self, "Folder with a bake-off's results", start)
        if folder:
            self.open_results(folder)

    def _open_folder(self) -> None:
        folder = Path(self.work.request.out) if self.work.request else self.setup.folder
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))):
            self._say(f"The results lie in {folder}")

    # --- what is told -------------------------------------------------------------------------

    def _on_described(self, data: dict[str, Any]) -> None:
        if data.get("format", 0) >= FORMAT:
            self.setup.contestants.describe(data["attentions"])
            self.setup.refresh()
            self._on_setup()

    def _on_setup(self) -> None:
        if self.work.busy:
            return
        if self._seen != self.setup.values:  # what was missing may be there now
            self._seen = self.setup.values
            self.errors.clear()
        self._caption()

    def _on_busy(self, busy: bool) -> None:
        self.run.setEnabled(True)
        self.setup.setEnabled(not busy)
        self.load.setEnabled(not busy)
        self.progress.setVisible(busy)
        self.moving.setVisible(busy)
        self.progress.reset()
        if busy:
            self._began = time.monotonic()
            self.run.setText("Cancel")
            waits = self.hub.training.busy
            self._say("")
            self.moving.setText(
                "Waits until the training ends ..." if waits else "Starting the engine ..."
            )
        else:
            self.setup.refresh()
            self._caption()

    def _caption(self) -> None:
        """The button says what pressing it would do."""
        total, kept = self.setup.runs
        left = total - kept
        if not self.setup.values["contestants"]:
            self.run.setText("Run")
        elif not left:
            self.run.setText("Show the kept results")
        else:
            verb = "Go on:" if kept else "Run"
            self.run.setText(f"{verb} {left} training{'s' * (left != 1)}")

    def _on_started(self, event: Any) -> None:
        self.progress.setRange(0, event.total)
        self.moving.setText(f"Reading the data, on {event.device} ...")

    def _on_planned(self, event: Any) -> None:
        wish: BakeOff | None = self.work.request
        assert wish is not None
        known = self.setup.contestants.known
        words = ("", *wish.contestants)
        names = [contestant_name(w, known) for w in words]
        self.names = dict(zip(event.keys, names, strict=True))
        self._labels = dict(zip(event.labels, names, strict=True))
        labels = ["no attention", *event.labels[1:]]
        self.table.begin(event.keys, names, labels, len(wish.seeds))
        self.empty.hide()
        self.said.hide()
        for widget in (self.table, self.pictures, self.open):
            widget.show()
        self.tabs.setCurrentIndex(1)

    def _on_step(self, event: Any) -> None:
        move_bar(self.progress, event.done)
        if event.what == "pictures":
            self._under_way = ("", 0)
            self.moving.setText("Drawing the pictures ...")
            return
        name = self.names.get(event.key, event.key)
        over = event.what in ("done", "failed")
        self._under_way = ("", 0) if over else (event.key, event.seed)
        if not over:
            tested = event.epoch >= event.epochs
            state = "testing" if tested else f"epoch {event.epoch + 1} of {event.epochs}"
            self.table.tell(event.key, f"{state}, seed {event.seed}")
        left = duration(event.seconds_left)
        done = f"{event.done} of {event.total} done"
        self.moving.setText(f"{done}, {name}" + (f", about {left} left" if left else ""))

    def _on_row(self, event: Any) -> None:
        self.table.take(event)
        self._tell_said(event.said, so_far=True)

    def _tell_said(self, said: tuple[str, ...] | list[str], so_far: bool) -> None:
        """What can be said, with the names of people instead of placements."""
        words = " ".join(s if s.endswith(".") else f"{s}." for s in said)
        for label in sorted(self._labels, key=len, reverse=True):
            words = words.replace(label, self._labels[label])
        self.said.setText(f"So far: {words}" if so_far and words else words)
        self.said.setVisible(bool(words))

    def _on_finished(self, event: Any) -> None:
        self.table.settle("stopped")
        self._tell_said(event.summary.get("said", ()), so_far=event.reason != "done")
        if event.reason == "cancelled":
            self._say("Cancelled. Finished trainings are kept, the one under way goes on later.")
            return
        took = duration(time.monotonic() - self._began)
        self._say(f"Done{f' in {took}' if took else ''}. Double-click a row to use its network.")

    def _on_failed(self, event: Any) -> None:
        key, seed = self._under_way
        if key and not self.work.busy:
            self.table.settle("failed")
            self._fail(f"{self.names[key]}, seed {seed}: {event.message}", event.report)
        else:
            self._fail(event.message, event.report)
        self._under_way = ("", 0)
        self.pictures.give_up()

    def _on_lost(self, cause: str) -> None:
        self.table.settle("stopped")
        self.pictures.give_up()
        self._fail(
            f"the engine stopped: {cause}. Press the button below to go on; what is done is kept."
        )

    def _on_pictures(self, event: Any, found: dict[str, Any]) -> None:
        names = self.names or {cell["key"]: cell["key"] for cell in found["cells"]}
        self.pictures.take(event, found, names)

    def _fail(self, message: str, report: str = "") -> None:
        self._say("")
        self.errors.show_error(message, report)

    def _say(self, words: str) -> None:
        self.status.setText(words)
        self.status.setVisible(bool(words))
