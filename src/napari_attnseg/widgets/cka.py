"""Compare layers: how alike the features of two trained models are, layer by layer (CKA)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLineEdit,
    QSpinBox,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg.atomic import write_whole
from napari_attnseg.control.comparing import CkaController
from napari_attnseg.errors import AttnSegError, InputError, plain_sentence
from napari_attnseg.viewer.bringing import pixels_of
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._bridge import connect_alive, to_main_thread
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._foot import with_foot
from napari_attnseg.widgets._heatmap import LayerHeatmap
from napari_attnseg.widgets._parts import (
    Field,
    LayerCombo,
    ask_target,
    button,
    hint,
    narrow,
    row,
    thin_bar,
)
from napari_attnseg.widgets.diagnose import ErrorBar
from napari_attnseg.widgets.opening import checked_model_file

if TYPE_CHECKING:
    from napari.viewer import Viewer

ABOUT = (
    "Linear CKA: 1 where two layers see the same in the images, 0 where they have nothing in "
    "common. Bright squares are groups of layers that do alike work."
)
LAYER, FOLDER = 0, 1


class CkaWidget(Dock):
    """The dock. It shares engine and models with the other docks of its viewer."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.work = CkaController(self.hub.training.client, self.hub.scratch, to_main_thread)
        self.destroyed.connect(lambda *_, work=self.work: work.close())
        self.errors = ErrorBar()
        self.heatmap = LayerHeatmap()
        self.heatmap.hide()
        self._make_controls(napari_viewer)
        self._lay_out()
        self._listen()
        self._fill_models()
        self._on_busy(False)

    def warm_up(self) -> None:
        """Nothing: comparing is the training engine's work, and comes when it is asked for."""

    def _make_controls(self, viewer: Any) -> None:
        self.first, self.second = narrow(QComboBox()), narrow(QComboBox())
        tip = "Load a checkpoint (.safetensors) of your own"
        self.load, self.load_second = button("File...", tip), button("File...", tip)
        self.layer = LayerCombo(viewer, ("image",), empty="none: open an image first")
        self.folder = QLineEdit(str(recall("cka_folder", "")))
        self.folder.setPlaceholderText("folder of images")
        self.browse = button("Choose...", "A folder of 2D images or NIfTI volumes, 4 or more")
        self.limit = QSpinBox()
        self.limit.setRange(4, 4096)
        self.limit.setValue(64)
        self.limit.setToolTip("Images or slices at most; more is slower and surer")
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)  # napari's style draws it as a white line
        self.run = button("Compare", "Run all images through the models; press again to stop")
        self.run.setMinimumHeight(34)
        self.save = button("Save...", "Keep the picture (PNG) and the table (JSON)")
        self.progress = thin_bar()
        self.status = hint()

    def _lay_out(self) -> None:
        page = QWidget()
        inside = QVBoxLayout(page)
        inside.setContentsMargins(0, 6, 0, 0)
        tip = "Its slices; a single picture is cut into squares"
        inside.addWidget(Field("Image", self.layer, tip))
        other = QWidget()
        inside = QVBoxLayout(other)
        inside.setContentsMargins(0, 6, 0, 0)
        inside.addWidget(
            Field(
                "Folder of images",
                row(self.folder, self.browse),
                "Images of a kind both models know",
            )
        )
        self.tabs.addTab(page, "Image layer")
        self.tabs.addTab(other, "Folder")
        self.tabs.setMaximumHeight(104)
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(7)
        box.addWidget(Field("Model A", row(self.first, self.load), "Its layers are the rows"))
        second = row(self.second, self.load_second)
        box.addWidget(Field("Model B", second, "Its layers are the columns"))
        box.addWidget(self.tabs)
        box.addWidget(Field("Images at most", self.limit))
        self.about = hint(ABOUT)
        box.addWidget(self.about)
        box.addWidget(self.heatmap)
        box.addStretch(1)
        buttons = row(self.run, self.save)
        with_foot(self, content, self.errors, self.status, self.progress, buttons)

    def _listen(self) -> None:
        self.run.clicked.connect(self.run_or_cancel)
        self.save.clicked.connect(self._choose_target)
        self.browse.clicked.connect(self._browse)
        self.load.clicked.connect(lambda: self._load(self.first))
        self.load_second.clicked.connect(lambda: self._load(self.second))
        work = self.work
        connect_alive(self, self.hub.models_changed, lambda _: self._fill_models())
        connect_alive(self, work.busy_changed, self._on_busy)
        connect_alive(self, work.started, self._on_started)
        connect_alive(self, work.step, self._on_step)
        connect_alive(self, work.done, self._on_done)
        connect_alive(self, work.finished, self._on_finished)
        connect_alive(self, work.failed, lambda e: self._fail(e.message, e.report))
        connect_alive(self, work.engine_lost, self._on_lost)

    # --- run ----------------------------------------------------------------------------------

    def run_or_cancel(self) -> None:
        """Compare when idle, cancel when busy."""
        if self.work.busy:
            self.work.stop()
            self.run.setText("Cancelling...")
            self.run.setEnabled(False)
            return
        self.errors.clear()
        self.heatmap.hide()  # a former answer must not pass for that of this comparison
        self.about.show()
        self.save.setEnabled(False)
        try:
            self._start()
        except (AttnSegError, MemoryError, OSError) as error:
            self._fail(plain_sentence(error) or str(error))

    def _start(self) -> None:
        a, b = str(self.first.currentData() or ""), str(self.second.currentData() or "")
        if not a:
            raise InputError("there is no model to look into; load a file, or train one")
        image, images = None, ""
        if self.tabs.currentIndex() == LAYER:
            if self.layer.layer is None:
                raise InputError("there is no image; open one, or choose File > Open Sample")
            image = pixels_of(self.layer.layer)
        else:
            images = self.folder.text().strip()
            if not images:
                raise InputError("no folder is chosen; choose one with 4 images or more")
            remember("cka_folder", images)
        kinds: dict[str, Any] = {"limit": self.limit.value(), "device": self.hub.device}
        self.work.start(a, "" if b == a else b, image=image, images=images, **kinds)

    def _on_busy(self, busy: bool) -> None:
        self.run.setEnabled(True)
        self.run.setText("Cancel" if busy else "Compare")
        self.progress.setVisible(busy)
        self.progress.setRange(0, 0)
        self.save.setEnabled(not busy and not self.heatmap.isHidden())
        if busy:
            waits = self.hub.training.busy
            self._say("Waits until the training ends ..." if waits else "Starting the engine ...")
        elif not self.status.text().endswith("images."):
            self._say("")

    def _on_started(self, event: Any) -> None:
        self._say(f"Comparing on {event.device} ...")

    def _on_step(self, event: Any) -> None:
        self.progress.setRange(0, event.total)
        self.progress.setValue(event.done)

    def _on_done(self, table: dict[str, Any], picture: str) -> None:
        titles = [Path(str(table[name])).stem for name in ("model_a", "model_b")]
        self.heatmap.show_table(table, *titles)
        self.heatmap.show()
        self.about.hide()
        rows, columns = len(table["layers_a"]), len(table["layers_b"])
        self._say(f"{rows} x {columns} layers over {table['images']} images.")
        self.save.setEnabled(True)

    def _on_finished(self, event: Any) -> None:
        if event.reason == "cancelled":
            self._say("Cancelled; nothing was kept.")

    def _on_lost(self, cause: str) -> None:
        self._fail(f"the engine stopped: {cause}. Press Compare to start it again.")

    def _fail(self, message: str, report: str = "") -> None:
        self._say("")
        self.errors.show_error(message, report)

    def _say(self, words: str) -> None:
        self.status.setText(words)
        self.status.setVisible(bool(words))

    # --- choices ------------------------------------------------------------------------------

    def _fill_models(self) -> None:
        for combo, none in ((self.first, ""), (self.second, "the same model")):
            chosen = combo.currentData()
            with QSignalBlocker(combo):
                combo.clear()
                if none:
                    combo.addItem(none, "")
                for name in self.hub.models:
                    combo.addItem(Path(name).stem, name)
                wanted = chosen if chosen is not None else ("" if none else self.hub.checkpoint)
                combo.setCurrentIndex(max(0, combo.findData(wanted)))

    def _load(self, combo: QComboBox) -> None:
        try:
            path = checked_model_file(self)
            if path:
                self.hub.add_model(path)
                combo.setCurrentIndex(max(0, combo.findData(str(path))))
        except AttnSegError as error:
            self.errors.show_error(str(error))

    def _browse(self) -> None:
        start = self.folder.text() or str(recall("folder", str(Path.home())))
        folder = QFileDialog.getExistingDirectory(self, "Folder of images", start)
        if folder:
            self.folder.setText(folder)

    def _choose_target(self) -> None:
        if path := ask_target(self, "Save picture and table", "cka.png", "Picture (*.png)"):
            self.save_to(Path(path))

    def save_to(self, path: Path) -> None:
        """Write ``<path>.png`` and ``<path>.json``."""
        try:
            for made in map(Path, (self.work.picture, self.work.table)):
                write_whole(path.with_suffix(made.suffix), made.read_bytes())
        except OSError as error:
            self.errors.show_error(f"cannot write {path.name}: {error.strerror or error}")
            return
        self._say(f"Saved {path.with_suffix('.png').name} and {path.with_suffix('.json').name}.")
