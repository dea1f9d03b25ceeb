"""The lower part of the Segment dock: what can be done with an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_attnseg.viewer.query import query_for
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._choose import complaining
from napari_attnseg.widgets._export import ExportPart
from napari_attnseg.widgets._keep_buttons import KeepButtons
from napari_attnseg.widgets._legend import ClassLegend
from napari_attnseg.widgets._parts import Section, button, hint, later, row

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers


class AfterPanel(QWidget):
    """Attention query, objects, hand edits and export of the present results."""

    exported = Signal(str)

    def __init__(self, hub: Hub, complain: Callable[[str], None]) -> None:
        super().__init__()
        self.hub, self._complain = hub, complain
        self.query = query_for(hub)
        self._watched: Any = None
        self._build()
        self._lay_out()
        self._listen()
        self.follow(hub.results)

    def _build(self) -> None:
        self.ask = button(
            "Ask a pixel",
            "Shows a ring; click the image (or drag the ring) to see, as a heat map, which "
            "places this pixel attends to. Shift+click keeps a pixel with a map of its own",
            "Ctrl+Shift+A",
        )
        self.ask.setCheckable(True)
        self.kept = KeepButtons(self.query, self._attempt)
        self.split = button("Split into objects", "Number the connected parts of the mask")
        self.watershed = QCheckBox("separate touching")
        self.watershed.setToolTip("Cut parts that touch with a distance watershed")
        self.objects = hint()
        self.legend = ClassLegend(self.hub)
        self.edits = hint("No hand edits. Paint on the labels: what you paint stays.")
        self.reset = button("Reset edits", "Drop what was painted by hand (Ctrl+Z brings it back)")
        self.exporting = ExportPart(lambda: self.hub.results, self._complain, "Ctrl+Shift+E")
        self.export, self.verdict = self.exporting.button, self.exporting.verdict
        self.export_to = self.exporting.export_to

    def _lay_out(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        self.classes = Section("Classes", self.legend)
        self.classes.hide()
        box.addWidget(self.classes)
        box.addWidget(Section("Look", self.ask, self.kept))
        box.addWidget(Section("Correct", self.edits, self.reset))
        box.addWidget(Section("Count", row(self.split, self.watershed), self.objects))
        box.addWidget(Section("Keep", self.exporting))
        self.objects.hide()

    def _listen(self) -> None:
        self.ask.toggled.connect(self._toggle_query)
        self.split.clicked.connect(self._split)
        self.reset.clicked.connect(self._reset)
        self.exporting.exported.connect(self.exported)
        connect_alive(self, self.query.toggled, self.ask.setChecked)
        connect_alive(self, self.hub.results_changed, self.follow)
        connect_alive(self, self.hub.source_changed, lambda _: self._stop_query())
        connect_alive(self, self.hub.live.objects_done, self._on_objects)
        connect_alive(self, self.hub.live.busy_changed, self._forget_verdict)
        connect_alive(self, self.hub.live.retuned, self._forget_verdict)

    # --- state ----------------------------------------------------------------------------------

    def follow(self, results: ResultLayers | None) -> None:
        """Show what the present image and model have."""
        labels = results.layer("labels") if results is not None else None
        self.legend.follow(results)
        self.classes.setVisible(labels is not None)
        for widget in (self.split, self.watershed, self.export):
            widget.setEnabled(labels is not None)
        known, self._watched = self._watched, labels
        if labels is not None and labels is not known:
            labels.events.paint.connect(self._count_soon)
            labels.events.set_data.connect(self._count_soon)
        self._count()

    def _forget_verdict(self, *_: Any) -> None:
        """The tick speaks of the mask that was written, not of one that has changed since."""
        self.verdict.hide()

    def _count_soon(self, event: Any = None) -> None:
        self._forget_verdict()
        later(self, 0, self._count)

    def _count(self) -> None:
        results = self.hub.results
        edits = results.edits if results is not None else None
        count = edits.count if edits is not None else 0
        self.reset.setEnabled(count > 0)
        words = "No hand edits. Paint on the labels: what you paint stays."
        if count:
            pixels = "pixel stays" if count == 1 else "pixels stay"
            words = f"{count:,} painted {pixels} whatever the model says."
        self.edits.setText(words)

    # --- actions --------------------------------------------------------------------------------

    def _toggle_query(self, on: bool) -> None:
        if on == self.query.on:  # another dock has asked
            return
        if not on:
            self.query.stop()
            return
        before = self.query.on
        with complaining(self._complain):
            self.query.start()
        if not self.query.on and not before:
            self.ask.setChecked(False)

    def _attempt(self, call: Callable[[], None]) -> None:
        with complaining(self._complain):
            call()

    def _stop_query(self) -> None:
        self.ask.setChecked(False)

    def _split(self) -> None:
        with complaining(self._complain):
            self.hub.split_objects(self.watershed.isChecked())

    def _on_objects(self, event: Any, ids: np.ndarray) -> None:
        self.objects.setText(f"{event.count:,} object{'' if event.count == 1 else 's'}.")
        self.objects.show()

    def _reset(self) -> None:
        results = self.hub.results
        if results is not None and results.edits is not None:
            results.edits.reset()
            self._count()
