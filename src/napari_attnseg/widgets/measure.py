"""The Measure dock: what a mask measures, how it agrees with a reference, and two tidying steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.measures import Region
from napari_attnseg.io.measures_csv import csv_text, rows_against, write_csv
from napari_attnseg.viewer import measure_layers as layers
from napari_attnseg.viewer.edit_watch import EditWatch
from napari_attnseg.viewer.hub import hub_for, unwrapped
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.measures import Answer, MeasureWork, Question
from napari_attnseg.widgets._bridge import connect_alive, to_main_thread
from napari_attnseg.widgets._dock import Dock
from napari_attnseg.widgets._foot import with_foot
from napari_attnseg.widgets._measure_reference import ReferencePart
from napari_attnseg.widgets._measure_table import MeasureTable, region_words
from napari_attnseg.widgets._measure_tidy import TidyPart
from napari_attnseg.widgets._parts import (
    Field,
    LayerCombo,
    Section,
    ask_target,
    behind,
    button,
    hint,
    row,
    thin_bar,
)
from napari_attnseg.widgets.diagnose import ErrorBar

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

QUIET_MS, QUIET_LARGE_MS = 400, 1500
"""After the last edit; large masks wait longer, for measuring them takes a processor."""
LARGE_VOXELS = 20_000_000
EMPTY = "Segment an image (Segment dock), or open a mask: its classes are measured here."
NOTHING = "This mask is empty: no class has a pixel."


class MeasureWidget(Dock):
    """The dock. It follows the chosen labels layer: strokes, runs and undo."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.hub = hub_for(napari_viewer)
        self.viewer = unwrapped(napari_viewer)
        self.work = MeasureWork(to_main_thread)
        self.watch = EditWatch()
        self.answer: Answer | None = None
        self._stale = True
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.measure)
        self._make_parts(napari_viewer)
        self._lay_out()
        self._listen()
        self._on_mask(self.mask.layer)
        self._follow_selection()

    def warm_up(self) -> None:
        """Nothing: no engine is needed to measure."""

    def _make_parts(self, viewer: Any) -> None:
        self.mask = LayerCombo(viewer, ("labels",), results=True, empty="none yet")
        self.image = LayerCombo(viewer, ("image",), optional="none")
        self.table = MeasureTable()
        self.detail = hint()
        self.note = hint(EMPTY)
        self.copy = button("Copy", "Copy the table, to be pasted into a spreadsheet")
        self.save = button("Save CSV...", "Write classes and all their parts to a file")
        self.reference = ReferencePart(viewer)
        self.tidy = TidyPart(self.hub, self.mask)
        self.errors = ErrorBar()
        self.status = hint()
        self.status.hide()
        self.progress = thin_bar()
        self.progress.setRange(0, 100)
        self.progress.hide()

    def _lay_out(self) -> None:
        content = QWidget()
        box = QVBoxLayout(content)
        box.setContentsMargins(8, 8, 8, 8)
        box.setSpacing(7)
        box.addWidget(Field("Mask", self.mask, "The labels layer that is measured"))
        box.addWidget(Field("Values of", self.image, "Image whose values are averaged per class"))
        for part in (self.note, self.table, self.detail, row(self.copy, self.save, stretch=-1)):
            box.addWidget(part)
        box.addWidget(Section("Compare", self.reference))
        box.addWidget(Section("Tidy up", self.tidy))
        box.addStretch(1)
        with_foot(self, content, self.errors, self.status, self.progress)

    def _listen(self) -> None:
        self.mask.layer_changed.connect(self._on_mask)
        self.image.layer_changed.connect(lambda _: self.soon())
        self.reference.changed.connect(self._on_reference)
        self.reference.map_asked.connect(self.show_error_map)
        self.table.chosen.connect(self._on_chosen)
        self.copy.clicked.connect(self.copy_table)
        self.save.clicked.connect(self._choose_target)
        self.tidy.failed.connect(self.errors.show_error)
        self.tidy.changed.connect(self.soon)
        connect_alive(self, self.watch.edited, self.soon)
        connect_alive(self, self.hub.live.retuned, lambda *_: self._on_answer())
        connect_alive(self, self.hub.live.finished, lambda _: self._on_answer())
        connect_alive(self, self.work.answered, self._on_measured)
        connect_alive(self, self.work.failed, self._on_failed)
        connect_alive(self, self.work.progress, self._on_progress)
        connect_alive(self, self.work.busy_changed, self._on_busy)
        self.viewer.mouse_drag_callbacks.append(self._on_press)
        self.viewer.layers.selection.events.active.connect(self._follow_selection)
        own = (self.viewer, self._on_press, self._follow_selection, self.work, self.watch)
        self.destroyed.connect(lambda *_: _leave(*own))

    # --- measuring ----------------------------------------------------------------------------

    def soon(self) -> None:
        """Measure when it has been quiet for a moment."""
        layer = self.mask.layer
        large = layer is not None and layer.ndim == 3 and _voxels(layer) > LARGE_VOXELS
        self._stale = True
        self._timer.start(QUIET_LARGE_MS if large else QUIET_MS)

    def measure(self) -> None:
        """Measure now, behind the window; nothing while the dock is not seen."""
        layer = self.mask.layer
        if layer is None or behind(self):
            return
        self._stale = False
        try:
            self.work.ask(self._question(layer))
            self.errors.clear()
        except AttnSegError as error:
            self.work.stop()
            self._clear()
            self.errors.show_error(str(error))

    def _question(self, layer: Labels) -> Question:
        reference = self.reference.layer.layer
        reference = None if reference is layer else reference
        return Question(
            layers.ids_of(layer),
            lambda: layers.space_of_layer(layer, self.viewer),
            layers.pixels_beside(layer, self.image.layer),
            layers.names_of(layer),
            None if reference is None else layers.reference_ids(layer, reference),
            self.reference.wanted,
        )

    def showEvent(self, event: Any) -> None:
        """What changed while the dock was not seen is measured now."""
        super().showEvent(event)
        if self._stale:
            self.soon()

    def _on_mask(self, layer: Labels | None) -> None:
        self.watch.follow(layer)
        self.work.stop()
        self._clear()
        self.tidy.setEnabled(layer is not None)
        if layer is None:
            return
        self.image.choose(layers.image_of(layer, self.viewer))
        self.soon()

    def _follow_selection(self, event: Any = None) -> None:
        """The labels that are selected in the layer list are measured, unless they are compared
        with."""
        active = self.viewer.layers.selection.active
        if (
            active is not None
            and active is not self.reference.layer.layer
            and not is_errors(active)
        ):
            self.mask.choose(active)

    def _on_reference(self) -> None:
        self.reference.empty()
        self.soon()

    def _on_answer(self) -> None:
        results = self.hub.results
        if results is not None and results.layer("labels") is self.mask.layer:
            self.soon()

    def _on_measured(self, answer: Answer) -> None:
        layer = self.mask.layer
        if layer is None:
            return
        self.answer = answer
        measures = answer.measures
        colors = {r.id: layer.get_color(r.id) for r in measures.classes}
        self.table.show_measures(measures, colors)
        self.table.setVisible(bool(measures.classes))
        self.note.setText(NOTHING)
        self.note.setVisible(not measures.classes)
        self._say_detail()
        self.tidy.show_classes({r.id: r.name for r in measures.classes})
        for made in (self.copy, self.save):
            made.setEnabled(bool(measures.classes))
        if answer.agreements is None:
            self.reference.empty()
        else:
            found = answer.agreements
            self.reference.show_agreements(found, measures.space, colors, answer.note)

    def _clear(self) -> None:
        self.answer = None
        self.table.empty()
        self.table.hide()
        self.note.setText(EMPTY if self.mask.layer is None else "Measuring ...")
        self.note.show()
        self.detail.hide()
        self.reference.empty()
        for made in (self.copy, self.save):
            made.setEnabled(False)

    def _on_failed(self, sentence: str) -> None:
        self._clear()
        self.note.hide()
        self.errors.show_error(sentence)

    def _on_busy(self, busy: bool) -> None:
        if not busy:
            self.progress.hide()

    def _on_progress(self, share: float) -> None:
        self.progress.setValue(round(100 * share))
        self.progress.show()

    # --- from row to place and back -----------------------------------------------------------

    def _on_chosen(self, region: Region) -> None:
        layer = self.mask.layer
        if layer is not None:
            layers.go_to(self.viewer, layer, region)
        self._say_detail()

    def _say_detail(self) -> None:
        region = self.table.current
        words = (
            ""
            if region is None or self.answer is None
            else region_words(self.answer.measures, region)
        )
        self.detail.setText(words)
        self.detail.setVisible(bool(words))

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click (no drag) on the mask in the view selects its row."""
        if event.button != 1:
            return
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        layer = self.mask.layer
        if dragged or layer is None or self.answer is None or not layer.visible:
            return
        known = {region.id: region for region in self.answer.measures.classes}
        if id := layers.region_at(layer, event, known):
            self.table.select(id)
            self._say_detail()

    # --- out ----------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """The table with all its columns; figures against the reference at its classes."""
        if self.answer is None or self.mask.layer is None:
            return []
        found = self.answer
        return rows_against(found.measures, found.agreements or (), mask=self.mask.layer.name)

    def copy_table(self) -> None:
        """The table as tab-separated text: spreadsheets paste it into cells."""
        text = csv_text(self.rows(), "\t")
        QApplication.clipboard().setText(text)
        self._say(f"{len(self.rows())} rows copied.")

    def _choose_target(self) -> None:
        if self.mask.layer is None:
            return
        name = f"{self.mask.layer.name}.csv"
        if path := ask_target(self, "Save the measures", name, "Table (*.csv)"):
            self.save_to(path)

    def save_to(self, path: str) -> None:
        """Write the table, whole or not at all."""
        try:
            write_csv(path, self.rows())
        except AttnSegError as error:
            self.errors.show_error(str(error))
            return
        self._say(f"{len(self.rows())} rows written to {Path(path).name}.")

    def _say(self, words: str) -> None:
        self.status.setText(words)
        self.status.show()

    def show_error_map(self) -> None:
        """Show where mask and reference differ, as a layer with the colours of the legend."""
        layer, reference = self.mask.layer, self.reference.layer.layer
        if layer is None or reference is None:
            return
        ids = layers.ids_of(layer)
        layers.behind_window(
            lambda: layers.errors_of(ids, layers.reference_ids(layer, reference)),
            to_main_thread,
            lambda pixels: self._show_errors(layer, pixels),
            self.errors.show_error,
        )

    def _show_errors(self, layer: Labels, pixels: Any) -> None:
        layers.error_layer(self.viewer, layer, pixels)
        self.reference.legend.show()


def _voxels(layer: Labels) -> int:
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return int(data.size)


def is_errors(layer: Any) -> bool:
    """Whether a layer is an error map."""
    return layer.metadata.get(METADATA, {}).get("what") == "errors"


def _leave(viewer: Any, press: Any, follow: Any, work: MeasureWork, watch: EditWatch) -> None:
    """The dock is gone: nothing of it stays in the viewer."""
    viewer.layers.selection.events.active.disconnect(follow)
    if press in viewer.mouse_drag_callbacks:
        viewer.mouse_drag_callbacks.remove(press)
    work.stop()
    watch.follow(None)
