"""Which colour and number is which class, and how much of the image it covers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_attnseg.viewer.journal_tiles import tiles_under
from napari_attnseg.viewer.measure import LABELS, counts_of, pixel_mm, size_words
from napari_attnseg.widgets._bridge import connect_alive, pulse_for
from napari_attnseg.widgets._moving import MovingFigure
from napari_attnseg.widgets._parts import settle_layouts

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers

AT_ONCE_S = 0.0015
"""Counting in one turn of the event loop, and one slice at least."""
COUNT_AFTER_MS = 400
_SWATCH = (
    "QPushButton {{ background: {color}; border: 1px solid rgba(128,128,128,160);"
    " border-radius: 3px; padding: 0px; margin: 0px; }}"
)


class _Row(QWidget):
    """Swatch (press to paint with the class), number and name, size."""

    def __init__(self, label: int, name: str) -> None:
        super().__init__()
        self.label = label
        self.swatch = QPushButton()
        self.swatch.setFixedSize(22, 16)
        self.swatch.setToolTip(f"Paint {name} (label {label})")
        self.name = QLabel(f"{label}  {name}")
        self.name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.name.setToolTip(f"{name} has the number {label} in the labels and in exported masks")
        self.size = MovingFigure()
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(6)
        line.addWidget(self.swatch)
        line.addWidget(self.name, 1)
        line.addWidget(self.size)


class ClassLegend(QWidget):
    """One row per class of the present labels; sizes follow the mask, hand edits included."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.rows: dict[int, _Row] = {}
        self._results: ResultLayers | None = None
        self._labels: Any = None
        self._counts = np.zeros((0, LABELS), np.int64)
        self._stale: set[int] = set()
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(2)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.count)
        connect_alive(self, hub.live.slice_done, lambda event: self._count_soon(event.z))
        connect_alive(self, pulse_for(hub.live).beat, lambda _: self._show_counted())
        connect_alive(self, hub.live.retuned, lambda event, *_: self._recount(event.z))
        connect_alive(self, hub.live.finished, lambda _: self._recount())
        self.hide()

    def follow(self, results: ResultLayers | None) -> None:
        """Show the classes of ``results``, or nothing before there are labels."""
        labels = results.layer("labels") if results is not None else None
        self.setVisible(labels is not None)
        if labels is self._labels:
            return
        self._watch(self._labels, False)
        self._watch(labels, True)
        self._results, self._labels = results, labels  # none: removed labels are let go
        if labels is None:
            return
        self._counts, self._stale = np.zeros((0, LABELS), np.int64), set()
        self._rebuild()
        self._recount()

    def _watch(self, labels: Any, on: bool) -> None:
        if labels is None:
            return
        told = dict.fromkeys(("paint", "set_data", "labels_update"), self._on_painted)
        told |= dict.fromkeys(("colormap", "features"), self._rebuild)
        for name, call in told.items():
            event = getattr(labels.events, name)
            event.connect(call) if on else event.disconnect(call)

    def _rebuild(self, event: Any = None) -> None:
        """Rows for every named class, in the layer's own colours."""
        if not isalive(self) or self._labels is None:
            return
        table = self._labels.features
        known = zip(table.get("index", ()), table.get("class", ()), strict=False)
        names = {int(i): str(name) for i, name in known if int(i)}
        used = np.flatnonzero(self._counts.sum(axis=0)[1:]) + 1
        names |= {int(i): f"label {i}" for i in used if int(i) not in names}
        for row in self.rows.values():
            self._box.removeWidget(row)
            row.hide()  # deleted later, it would be seen under its successor until then
            row.setParent(None)
            row.deleteLater()
        self.rows = {i: self._row(i, name) for i, name in sorted(names.items())}
        self._show()

    def _row(self, label: int, name: str) -> _Row:
        made = _Row(label, name)
        red, green, blue = (round(255 * float(c)) for c in self._labels.get_color(label)[:3])
        made.swatch.setStyleSheet(_SWATCH.format(color=f"rgb({red}, {green}, {blue})"))
        made.swatch.clicked.connect(lambda: self._paint(label))
        self._box.addWidget(made)
        return made

    def _paint(self, label: int) -> None:
        """Take the brush with this class in hand."""
        labels, layers = self._labels, self.hub.viewer.layers
        if labels in layers:
            layers.selection.active = labels
            labels.selected_label = label
            labels.mode = "paint"

    # --- sizes ----------------------------------------------------------------------------------

    def _on_painted(self, event: Any = None) -> None:
        if not isalive(self) or self._results is None:
            return
        item = getattr(event, "value", None)
        if item is None:  # a redraw, or code that set the pixels of what is seen
            self._recount(self.hub.visible_z() if self._labels.n_edit_dimensions == 2 else None)
            return
        under = tiles_under(item, self._results.shape) if len(item) else None
        for z in {key[0] for key in under} if under else [None]:  # empty: a step over anything
            self._recount(z)

    def _recount(self, z: int | None = None) -> None:
        """Count slice ``z`` (or all) and show it soon."""
        if self._results is None:
            return
        depth = self._results.shape[0]
        self._stale |= set(range(depth)) if z is None else {z}
        if not self._soon.isActive() or self._soon.remainingTime() > COUNT_AFTER_MS:
            self._soon.start(COUNT_AFTER_MS)

    def _count_soon(self, z: int) -> None:
        """Slice ``z`` of a run came in: it is counted now and shown with the progress."""
        self._stale.add(z)
        self._count_some()

    def count(self) -> None:
        """Bring the sizes to the present mask: only slices that may have changed are counted, and
        those of a large volume a few at a time, so that the window stays awake."""
        self._count_some()
        if self._stale and self._results is not None:
            self._soon.start(0)
        else:
            self._show_counted()

    def _count_some(self) -> None:
        """Count stale slices for as long as nobody notices."""
        results = self._results
        if results is None or not results.alive(self._labels):
            self._stale.clear()
            return
        data = np.asarray(self._labels.data).reshape(results.shape)
        if len(self._counts) != len(data):
            self._counts = np.zeros((len(data), LABELS), np.int64)
            self._stale = set(range(len(data)))
        self._stale &= set(range(len(data)))  # others are of an image chosen before
        until = time.perf_counter() + AT_ONCE_S
        while self._stale:
            z = self._stale.pop()
            self._counts[z] = counts_of(data[z])
            if time.perf_counter() >= until:
                return

    def _show_counted(self) -> None:
        """The sizes of what is counted so far, in one frame."""
        if self._labels is None:
            return
        unnamed = set(np.flatnonzero(self._counts.sum(axis=0)[1:]) + 1) - set(self.rows)
        self._rebuild() if unnamed else self._show()
        settle_layouts()

    def _show(self) -> None:
        results = self._results
        if results is None:
            return
        totals, one, ndim = self._counts.sum(axis=0), pixel_mm(results.source), results.source.ndim
        what = "pixels" if ndim == 2 else "voxels"
        for label, row in self.rows.items():
            pixels = int(totals[label])
            words = size_words(pixels, one, ndim)
            if row.size.text() != words:
                row.size.setText(words)
                row.size.setToolTip(f"{pixels:,} {what} in the mask, painted ones included")
