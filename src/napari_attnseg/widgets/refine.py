"""The Refine dock: a coarse mask, carried on by a learned affinity step by step and by strokes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.viewer.refine_work import refine_work_for
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._choose import complaining
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._export import ExportPart
from napari_attnseg.widgets._foot import with_foot
from napari_attnseg.widgets._parts import button, set_shortcut
from napari_attnseg.widgets._refine_affinity import AffinityPanel
from napari_attnseg.widgets._refine_choose import ChooseRefinement
from napari_attnseg.widgets._refine_foot import RefineLine, unfinished
from napari_attnseg.widgets._refine_steps import StepsPanel
from napari_attnseg.widgets._refine_strokes import StrokesPanel
from napari_attnseg.widgets.diagnose import ErrorBar

if TYPE_CHECKING:
    from napari.viewer import Viewer

RUN_KEYS = "Ctrl+Shift+Return"
FOLLOW_MS = 200
"""Curve, layers of steps and neighbouring slices follow when hand and brush have rested so long:
while they move, only the mask does."""


class RefineWidget(Dock):
    """The dock. All work goes through ``work``, which belongs to the viewer's hub."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.work = refine_work_for(self.hub)
        self.errors = ErrorBar()
        complain = self.errors.show_error
        self.choose = ChooseRefinement(self.work, complain)
        self.steps = StepsPanel(self.work, complain)
        self.strokes = StrokesPanel(self.work, complain)
        self.affinity = AffinityPanel(self.work, complain)
        self.line = RefineLine(self.work)
        self.run = button("Refine", "", RUN_KEYS)
        self.run.setMinimumHeight(34)
        self.here = button("This slice", "Refine the slice that is seen, and no other")
        self.export = ExportPart(
            lambda: self.work.results, complain, problem=lambda: unfinished(self.work)
        )
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(FOLLOW_MS)
        self._soon.timeout.connect(self.follow)
        self._lay_out()
        self._listen()
        self._say()

    def _lay_out(self) -> None:
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(6)
        for part in (self.choose, self.steps, self.strokes, self.affinity):
            box.addWidget(part)
        box.addStretch(1)
        with_foot(self, content, self.errors, self.line, self.run, self.here, self.export)

    def _listen(self) -> None:
        work, live = self.work, self.hub.live
        self.run.clicked.connect(self.run_or_cancel)
        self.here.clicked.connect(self.refine_here)
        for panel in (self.choose, self.steps, self.strokes):
            panel.moved.connect(self._on_moved)
        for panel in (self.steps, self.strokes):
            panel.rested.connect(self._soon.start)
        self.steps.asked.connect(self._soon.start)
        connect_alive(self, work.changed, self._say)
        connect_alive(self, work.chosen, self._say)
        connect_alive(self, work.painted, self._on_painted)
        connect_alive(self, work.refined, self._on_refined)
        connect_alive(self, work.failed, self.errors.show_error)
        connect_alive(self, work.control.note, self.errors.show_note)
        connect_alive(self, work.note, self.errors.show_note)
        connect_alive(self, live.failed, lambda event: self._on_failed(event))
        connect_alive(self, self.hub.slice_changed, lambda _: self._soon.start())

    # --- what a person can do -------------------------------------------------------------------

    def run_or_cancel(self) -> None:
        """Refine all slices, the seen one first; press again to stop."""
        if self.work.walk:
            self.work.cancel()
            return
        self.errors.clear()
        with complaining(self.errors.show_error):
            if self.hub.source is None:
                self._open_sample()
            self.line.asked()
            self.work.refine_all()
            self._soon.start()

    def refine_here(self) -> None:
        """Refine the seen slice."""
        self.errors.clear()
        with complaining(self.errors.show_error):
            self.line.asked()
            self.work.ask()
            self._soon.start()

    def follow(self) -> None:
        """Curve, step layers and neighbours of the seen slice, once hands have rested."""
        if not self.work.begun:
            return
        with complaining(self.errors.show_error):
            self.work.ask_steps()
            self.work.follow_strokes()

    def _open_sample(self) -> None:
        from napari.layers import Layer

        from napari_attnseg.viewer import samples

        layers = [self.hub.viewer.add_layer(Layer.create(*data)) for data in samples.nuclei()]
        self.hub.set_source(layers[0])

    # --- following ------------------------------------------------------------------------------

    def _on_moved(self) -> None:
        """A value, the coarse mask or the refinement is another one: the mask follows at once."""
        self._say()
        if self.hub.source is None or not self.work.checkpoint:
            return
        if not self.work.started and not self.work.watch.pixels:
            return  # nobody has asked for a mask yet
        self.errors.clear()
        with complaining(self.errors.show_error):
            self.line.asked()
            self.work.ask()
        self._soon.start()

    def _on_painted(self) -> None:
        self.line.asked()
        self._soon.start()

    def _on_refined(self, event: Any) -> None:
        if not self.work.walk:
            self.export.verdict.hide()
        if event.z == self.hub.visible_z() and not self.steps.curve.plot.values:
            self._soon.start()

    def _on_failed(self, event: Any) -> None:
        """An image that did not come; questions of the other docks show their own errors."""
        if self.isVisible():
            self.errors.show_error(event.message, event.report)

    def _say(self) -> None:
        volume, source = self.work.depth > 1, self.hub.source
        words = "Cancel" if self.work.walk else ("Refine all slices" if volume else "Refine")
        if not self.run.text().startswith(f"{words} ("):
            set_shortcut(self.run, words, RUN_KEYS)
        self.run.setToolTip(
            "Refine the visible slice first, then the others; press again to stop"
            if volume
            else "Refine the mask of the image"
        )
        self.run.setEnabled(bool(self.work.checkpoint))
        self.here.setVisible(volume)
        self.here.setEnabled(source is not None and not self.work.walk)
        self.export.button.setEnabled(self.work.begun)
