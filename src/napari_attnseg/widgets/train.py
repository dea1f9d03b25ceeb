"""Train dock: from folders, or from a few strokes on one image, to a model for the Segment dock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError, plain_sentence
from napari_attnseg.settings import TrainSettings
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.viewer.results import visible_slice
from napari_attnseg.viewer.strokes import PreviewLayer, class_color
from napari_attnseg.widgets._badge import EngineBadge
from napari_attnseg.widgets._bridge import Paced, connect_alive
from napari_attnseg.widgets._classes import ClassList
from napari_attnseg.widgets._curves import TrainingCurves
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._parts import Section, button, row, scrolling, set_shortcut
from napari_attnseg.widgets._train_check import OverfitCheck
from napari_attnseg.widgets._train_facts import ModelFacts
from napari_attnseg.widgets._train_folders import FolderPanel
from napari_attnseg.widgets._train_footer import TRAIN_KEYS, TrainFooter
from napari_attnseg.widgets._train_form import SettingsForm
from napari_attnseg.widgets._train_layers import LayerPanel
from napari_attnseg.widgets._train_out import OutputPanel
from napari_attnseg.widgets._train_words import closing_words, duration

if TYPE_CHECKING:
    from napari.viewer import Viewer

LAYERS, FOLDERS = 0, 1
CT_WINDOW_HU = (-160.0, 240.0)


class TrainWidget(Dock):
    """The dock. The training runs in an engine of its own at low priority."""

    TALL = 720

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.training = self.hub.training
        self.classes = ClassList(recall("train_classes", ("background", "nuclei")))
        self.layers = LayerPanel(self.hub, self.classes)
        self.folders = FolderPanel()
        self.tabs = QTabWidget()
        self.form = SettingsForm("few-strokes")
        self.facts = ModelFacts(self, self.hub, self.form, lambda: self.settings)
        self.badge = EngineBadge(self.hub)
        self.curves = TrainingCurves()
        self.preview: PreviewLayer | None = None
        self.checkpoint: Path | None = None
        self.best: tuple[float, int] | None = None
        self._paced = Paced(2.0)
        self._chose_recipe = self._used = self._lane_warm = False
        self._make_controls()
        self._lay_out()
        self._listen()
        self._idle()

    # --- parts ----------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.out = OutputPanel()
        self.footer = TrainFooter()
        self.run, self.resume, self.use = self.footer.buttons
        self.errors, self.status = self.footer.errors, self.footer.status
        self.progress, self.say = self.footer.progress, self.footer.say
        self.overfit = OverfitCheck(self)
        self.diagnose = button("Diagnose", "Driver, torch build, device, memory and a self-test")

    def _lay_out(self) -> None:
        self.tabs.addTab(self.layers, "From strokes")
        self.tabs.addTab(self.folders, "From folders")
        self.tabs.setTabToolTip(LAYERS, "An image layer and strokes or a mask painted on it")
        self.tabs.setTabToolTip(FOLDERS, "A folder of images and a folder of masks")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)  # napari's style draws it as a white line
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(8)
        box.addWidget(self.tabs)
        box.addWidget(Section("Classes", self.classes))
        self.setup = Section("Training", self.form, self.overfit.button, self.out)
        box.addWidget(self.setup)
        box.addWidget(self.curves)
        box.addWidget(row(self.badge, self.diagnose, stretch=-1), 0, Qt.AlignmentFlag.AlignLeft)
        box.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        self._area = scrolling(content)
        outer.setSpacing(0)
        outer.addWidget(self._area, 1)
        outer.addWidget(self.footer)

    def _listen(self) -> None:
        self.run.clicked.connect(self.train_or_stop)
        self.resume.clicked.connect(lambda: self.start(resume=True))
        self.use.clicked.connect(self.use_model)
        self.diagnose.clicked.connect(self.badge.diagnose)
        self.tabs.currentChanged.connect(self._on_tab)
        self.out.changed.connect(self._show_ready)
        self.form.recipe.activated.connect(lambda _: setattr(self, "_chose_recipe", True))
        self.layers.changed.connect(self._show_ready)
        self.layers.refused.connect(self._complain)
        self.layers.painted.connect(self._on_painted)
        self.folders.checked.connect(self._on_checked)
        self.classes.names_changed.connect(lambda names: remember("train_classes", list(names)))
        connect_alive(self, self.training.busy_changed, self._on_busy)
        connect_alive(self, self.training.started, self._on_started)
        connect_alive(self, self.training.epoch_done, self._on_epoch)
        connect_alive(self, self.training.preview, self._on_preview)
        connect_alive(self, self.training.note, self._on_note)
        connect_alive(self, self.training.finished, self._on_finished)
        connect_alive(self, self.training.failed, self._on_failed)
        connect_alive(self, self.training.engine_lost, self._on_lost)
        connect_alive(self, self.hub.model_changed, self._on_model)
        dims, viewer = self._on_dims, self.hub.viewer
        viewer.dims.events.current_step.connect(dims)
        self.destroyed.connect(lambda *_: viewer.dims.events.current_step.disconnect(dims))

    # --- start and stop -------------------------------------------------------------------------

    @property
    def from_layers(self) -> bool:
        """Whether the strokes tab is in front."""
        return self.tabs.currentIndex() == LAYERS

    @property
    def settings(self) -> TrainSettings:
        """What a training started now would use."""
        sparse = self.from_layers and self.layers.sparse
        names = self.classes.names
        colors = tuple(class_color(i) for i in range(len(names)))
        return replace(self.form.settings, class_names=names, class_colors=colors, sparse=sparse)

    def train_or_stop(self) -> None:
        """Train when idle, stop when a training runs."""
        if not self.training.busy:
            self.start()
            return
        self.training.stop()
        self.run.setText("Stopping...")
        self.run.setEnabled(False)

    def start(self, resume: bool = False) -> None:
        """Start with what the dock shows; ``resume``: go on from the last stop."""
        self.errors.clear()
        try:
            out = self.out.to_resume(self.checkpoint) if resume else self.out.prepare()
            self._begin(out, resume)
        except (AttnSegError, MemoryError, OSError) as error:
            self._complain(plain_sentence(error) or str(error))
            return
        self.checkpoint = out
        self.out.show_path(out)
        if not resume:
            self.curves.clear()
            self.best = None
        self.use.hide()
        self._show_ready()

    def check(self) -> None:
        """Learn one image by heart, with what the dock shows."""
        self.errors.clear()
        self.overfit.verdict = ""
        try:
            self.training.check(self.settings, device=self.hub.device, **self._data())
        except (AttnSegError, MemoryError, OSError) as error:
            self._complain(plain_sentence(error) or str(error))

    def _data(self) -> dict[str, Any]:
        """What there is to learn from; raises ``InputError`` with what is missing."""
        return self.layers.data() if self.from_layers else self.folders.data()

    def _begin(self, out: Path, resume: bool) -> None:
        told = {"device": self.hub.device, "resume": resume, **self._data()}
        image = self.layers.image.layer if self.from_layers else None
        if self.from_layers:
            z = self._visible_z()
            self.training.start_layers(self.settings, out, preview_z=z, **told)
        else:
            self.training.start(self.settings, out, **told)
        if self.preview is None or self.preview.image is not image:
            self.preview = PreviewLayer(self.hub.viewer, image)  # type: ignore[arg-type]

    # --- what the engine says -------------------------------------------------------------------

    def _on_busy(self, busy: bool) -> None:
        self.run.setEnabled(True)
        set_shortcut(self.run, "Stop" if busy else "Train", TRAIN_KEYS)
        for index in (LAYERS, FOLDERS):
            self.tabs.setTabEnabled(index, not busy or index == self.tabs.currentIndex())
        self.setup.setVisible(not busy)  # nothing there can change now; the curves need the room
        self.classes.more.setEnabled(not busy)
        self.classes.less.setEnabled(not busy and len(self.classes.names) > 2)
        if busy:
            self.progress.reset()  # one that runs to and fro would compose 60 frames a second
            self.progress.show()
            self.say("Starting the training engine ...")
        else:
            self.progress.hide()
            if self.preview is not None:
                self.preview.step_back()
            self.out.show_path()
            self._show_ready()

    def _on_started(self, event: Any) -> None:
        self.badge.set_device(event.device)
        self.progress.setRange(0, event.total)
        self.progress.setValue(0)
        if not self.training.checking:
            self.say(f"Training on {event.device}; the first preview comes in a few seconds.")

    def _on_epoch(self, event: Any) -> None:
        if event.best:
            self.best = (float(event.validation.get("dice", 0.0)), int(event.epoch))
        due = self._paced.due(event.epoch, event.epochs)
        self.curves.add(event, draw=due)
        if not due:
            return
        self.progress.setRange(0, event.epochs)
        self.progress.setValue(event.epoch)
        words = f"Epoch {event.epoch} of {event.epochs}"
        if self.best is not None:
            words += f"; best Dice {self.best[0]:.3f} in epoch {self.best[1]}"
        left = duration(event.seconds_left)
        self.say(f"{words}; {left} left at most." if left else f"{words}.")

    def _on_preview(self, event: Any, probability: Any) -> None:
        if self.preview is None:
            return
        path = Path(event.path)
        self.preview.show_ground(path.with_name(f"{path.stem}_image.npy"))
        self.preview.show(event.z, probability)

    def _on_note(self, text: str) -> None:
        if text.startswith("split:"):
            self.curves.setToolTip(text)
        elif text.startswith("image:"):
            self.status.setToolTip(text)
        elif not text.endswith("left out"):  # the pairing list has shown these
            self.errors.show_note(text)

    def _on_finished(self, event: Any) -> None:
        if self.training.checking:
            self.say(self.overfit.closing_words(event))
            return
        path = Path(event.outputs.get("checkpoint", ""))
        trained = path.is_file()
        self.curves.draw()
        self.say(closing_words(event, path))
        if trained:
            self.checkpoint = path
            try:
                self.hub.add_model(path)
            except AttnSegError as error:
                self.errors.show_error(str(error))
                return
        self.use.setVisible(trained)
        self._show_ready()

    def _on_failed(self, event: Any) -> None:
        self.say("")
        self._complain(event.message, event.report)

    def _on_lost(self, cause: str) -> None:
        kept = self.checkpoint is not None and self.checkpoint.is_file()
        words = f"The best model so far is kept in {self.checkpoint}. " if kept else ""
        self.say("")
        self._complain(
            f"the training engine stopped: {cause}. {words}Press "
            f"{'Resume' if self.resume.isVisible() else 'Train'} to start it again."
        )
        if kept:
            self.hub.add_model(str(self.checkpoint))
            self.use.show()

    # --- while it runs --------------------------------------------------------------------------

    def _on_painted(self, labels: Any) -> None:
        if self.training.busy and self.from_layers:
            self.training.update_labels(labels)

    def _on_dims(self, event: Any = None) -> None:
        if self.training.busy and self.from_layers:
            self.training.set_preview(self._visible_z())

    def _visible_z(self) -> int:
        image = self.layers.image.layer
        if image is None or image.ndim == 2:
            return 0
        return visible_slice(self.hub.viewer, image, int(image.data.shape[0]))

    # --- what is shown --------------------------------------------------------------------------

    def _on_tab(self, index: int) -> None:
        if not self._chose_recipe:
            self.form.set_recipe("few-strokes" if index == LAYERS else "threshold-matters")
        self.layers.recount() if index == LAYERS else self.classes.set_counts(None)
        self._show_ready()

    def _on_checked(self, found: Any) -> None:
        if found is not None and found.ok:
            if found.classes != len(self.classes.names):
                extra = tuple(f"class {i}" for i in range(1, found.classes))
                known = self.classes.names[: found.classes]
                self.classes.set_names((*known, *extra[len(known) - 1 :]))
            self.suit(found.channels, found.signed)
        self._show_ready()

    def suit(self, channels: int, signed: bool) -> None:
        """Choose channels and intensities that suit the data, unless the person chose a recipe."""
        if self._chose_recipe:
            return
        self.form.set_value("preprocessing.channels", channels)
        if signed:
            self.form.set_value("preprocessing.intensity", "window")
            self.form.set_value("preprocessing.low", CT_WINDOW_HU[0])
            self.form.set_value("preprocessing.high", CT_WINDOW_HU[1])

    def _idle(self) -> None:
        self.progress.hide()
        self.use.hide()
        self.say("")
        self._on_busy(self.training.busy)

    def _show_ready(self) -> None:
        busy = self.training.busy
        ready = self.layers.ready if self.from_layers else self.folders.ready
        self.run.setEnabled(busy or ready)
        if ready and not self._lane_warm:  # torch loads while the person still paints or reads
            self._lane_warm = True
            getattr(self.training.client, "start", lambda: None)()
        self.resume.setVisible(not busy and self.out.stopped(self.checkpoint) is not None)
        self.resume.setEnabled(ready)
        self.overfit.button.setEnabled(ready)
        self.curves.setVisible((busy and not self.training.checking) or bool(self.curves.epochs))

    def _complain(self, message: str, report: str = "") -> None:
        self.errors.show_error(message, report)

    def warm_up(self) -> None:
        """Ask for facts about the models."""
        self.facts.wake()

    # --- models and device ----------------------------------------------------------------------

    def use_model(self) -> None:
        """Choose the trained model (and its image) for the other docks."""
        if self.checkpoint is None:
            return
        try:
            self.hub.set_model(str(self.checkpoint))
        except AttnSegError as error:
            self.errors.show_error(str(error))
            return
        image = self.layers.image.layer if self.from_layers else None
        if image is not None:
            self.hub.set_source(image)  # type: ignore[arg-type]
        if self.preview is not None and self.preview.layer is not None:
            self.preview.layer.visible = False  # the model's own answer takes its place
        self.say(f"{self.checkpoint.stem} is now the model of the Segment and Tune docks.")
        self._used = True

    def _on_model(self, checkpoint: str) -> None:
        """Another model was chosen since: the last word is true no more."""
        if self._used and checkpoint != str(self.checkpoint):
            self._used = False
            self.say("")
