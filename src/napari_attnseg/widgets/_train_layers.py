"""Training data in layers: an image, and strokes or a complete mask painted on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_attnseg.errors import InputError
from napari_attnseg.io.preflight import LabelCount
from napari_attnseg.viewer import strokes
from napari_attnseg.viewer.bringing import pixels_of
from napari_attnseg.widgets._counting import LabelCounter
from napari_attnseg.widgets._parts import Field, LayerCombo, button, hint, narrow, row

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.widgets._classes import ClassList

SETTLE_MS = 400
"""Strokes are handed over this long after the last one, not while the brush moves."""
_EVENTS = ("paint", "labels_update", "set_data", "data")
SPARSE = "strokes, 0: unlabelled"
DENSE = "whole mask, 0: background"


class LayerPanel(QWidget):
    """Image, labels, how to read them, and what is painted so far.

    ``painted`` is emitted with the labels as (Z, Y, X) a moment after the last stroke;
    ``changed`` when anything that decides whether training can start is new.
    """

    painted = Signal(object)
    changed = Signal()
    refused = Signal(str)

    def __init__(self, hub: Hub, classes: ClassList) -> None:
        super().__init__()
        self.hub, self.classes = hub, classes
        self.image = LayerCombo(hub.viewer, ("image",), empty="none: open an image first")
        self.labels = LayerCombo(hub.viewer, ("labels",), results=True, empty="none yet")
        self.new = button(
            "New strokes", "An empty labels layer over the image, with the brush in hand"
        )
        self.reading = narrow(QComboBox())
        self.reading.addItems([SPARSE, DENSE])
        self.advice = hint()
        self.count = LabelCount((), 0)
        self._counter = LabelCounter(self._on_counted)
        self._watched: Labels | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._settled)
        self._lay_out()
        self._listen()
        self.image.choose(hub.source)
        self.labels.choose(strokes.matching_labels(hub.viewer, self.image.layer))
        self._on_labels(self.labels.layer)

    def _lay_out(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(6)
        box.addWidget(Field("Image", self.image, "The image layer to learn from"))
        tip = "Strokes, or a mask corrected by hand, on this image"
        box.addWidget(Field("Labels", row(self.labels, self.new), tip))
        tip = "What the label numbers mean; strokes need only a few pixels of every class"
        box.addWidget(Field("The labels are", self.reading, tip))
        box.addWidget(self.advice)

    def _listen(self) -> None:
        self.new.clicked.connect(lambda: self.new_strokes())
        self.image.layer_changed.connect(self._on_image)
        self.labels.layer_changed.connect(self._on_labels)
        self.reading.activated.connect(lambda _: self.recount())
        self.classes.names_changed.connect(self._on_names)
        self.classes.picked.connect(self.pick)

    # --- what is chosen -------------------------------------------------------------------------

    @property
    def sparse(self) -> bool:
        """Whether 0 means unlabelled."""
        return self.reading.currentIndex() == 0

    @property
    def ready(self) -> bool:
        """Whether both layers are there and every class is painted."""
        return self.image.layer is not None and self._watched is not None and not self.count.problem

    def array(self) -> npt.NDArray[Any]:
        """The labels as (Z, Y, X); ``InputError`` when they do not fit the image."""
        image, labels = self.image.layer, self.labels.layer
        if image is None:
            raise InputError("there is no image layer; open an image, or choose File > Open Sample")
        if labels is None:
            raise InputError("there is no labels layer; press New strokes and paint")
        return strokes.labels_array(labels, image)

    def data(self) -> dict[str, Any]:
        """Image and labels for the training engine; raises ``InputError`` with what is missing."""
        labels = self.array()
        if self.count.problem:
            raise InputError(self.count.problem)
        assert self.image.layer is not None
        return {"image": pixels_of(self.image.layer), "labels": labels}

    def new_strokes(self) -> Labels | None:
        """Make a strokes layer over the chosen image and hand over the brush."""
        image: Image | None = self.image.layer  # type: ignore[assignment]
        try:
            if image is None:
                raise InputError(
                    "there is no image to paint on; open one, or choose File > Open Sample"
                )
            layer = strokes.new_strokes(self.hub.viewer, image, self.classes.names)
        except InputError as error:
            self.refused.emit(str(error))
            return None
        self.labels.choose(layer)
        self.classes.set_brush(1, True)
        return layer

    def pick(self, index: int) -> None:
        """Paint with class ``index`` from now on."""
        layer = self._watched
        if layer is not None and layer in self.hub.viewer.layers:
            strokes.hold_brush(self.hub.viewer, layer, index + int(self.sparse))
        self._show_brush()

    # --- following ------------------------------------------------------------------------------

    def _on_image(self, layer: Any) -> None:
        if layer is not None:
            best = strokes.matching_labels(self.hub.viewer, layer)
            self.labels.choose(best)
        self.recount()

    def _on_labels(self, layer: Any) -> None:
        self.unwatch()
        self._watched = layer
        if layer is None:
            self.recount()
            return
        for name in _EVENTS:
            getattr(layer.events, name).connect(self._on_paint)
        layer.events.selected_label.connect(self._show_brush)
        layer.events.mode.connect(self._show_brush)
        with QSignalBlocker(self.reading):
            self.reading.setCurrentIndex(0 if strokes.is_strokes(layer) else 1)
        self._settled()
        self._show_brush()

    def unwatch(self) -> None:
        """Stop following the labels layer."""
        layer, self._watched = self._watched, None
        if layer is None:
            return
        for name in _EVENTS:
            getattr(layer.events, name).disconnect(self._on_paint)
        layer.events.selected_label.disconnect(self._show_brush)
        layer.events.mode.disconnect(self._show_brush)

    def _on_names(self, names: tuple[str, ...]) -> None:
        if self._watched is not None and strokes.is_strokes(self._watched):
            strokes.recolor(self._watched, names)
        self.recount()
        self._show_brush()

    def _on_paint(self, event: Any = None) -> None:
        self._timer.start()

    def _show_brush(self, event: Any = None) -> None:
        layer = self._watched
        held = layer is not None and str(getattr(layer.mode, "value", layer.mode)) != "pan_zoom"
        index = int(layer.selected_label) - int(self.sparse) if layer is not None and held else None
        self.classes.set_brush(index, layer is not None)

    def _settled(self) -> None:
        """Count, but the mask of a segmentation that still runs only after it."""
        results = self.hub.results
        made = results.layer("labels") if results is not None else None
        if made is not None and made is self._watched and self.hub.live.state.busy:
            self._timer.start()
        else:
            self.recount()

    def recount(self) -> None:
        """Count painted pixels, say what is missing, tell who trains on them."""
        self._timer.stop()
        self._counter.drop()
        if self._watched is None or self.image.layer is None:
            self.count = LabelCount((), 0)
            self.classes.set_counts(None)
            self.advice.setText(self._how_to_start())
            self.changed.emit()
            return
        try:
            self._counter.count(self.array(), len(self.classes.names), self.sparse)
        except InputError as error:
            self._show_count(LabelCount((), 0, str(error)))
        if self._counter.busy and not self.count.counts:
            self.advice.setText("Counting the labelled pixels ...")

    def _on_counted(self, count: LabelCount, labels: npt.NDArray[Any]) -> None:
        if not isalive(self):
            return
        self._show_count(count)
        if not count.problem:
            self.painted.emit(labels)

    def _show_count(self, count: LabelCount) -> None:
        self.count = count
        self.classes.set_counts(count.counts)
        self.advice.setText(self._words())
        self.changed.emit()

    def _words(self) -> str:
        problem = self.count.problem
        if problem:
            return f"<b>○</b> {problem[:1].upper()}{problem[1:]}."
        where = f" on {self.count.slices} slices" if self.count.slices > 1 else ""
        words = f"<b>✓</b> {sum(self.count.counts):,} labelled pixels{where}. Press Train."
        return f"{words}<br>{look_of(self.image.layer)}" if self.image.layer is not None else words

    def _how_to_start(self) -> str:
        if self.image.layer is None:
            return "Open an image, or choose File > Open Sample."
        return (
            "1. Press New strokes.  2. Paint a few strokes on what you look for, then a few "
            "on background (click a colour below to change the brush).  3. Press Train and go on "
            "painting where the preview is wrong."
        )


def look_of(layer: Any) -> str:
    """Size, type and range of an image, the range from a thinned copy of its pixels."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    shape = data.shape[:-1] if getattr(layer, "rgb", False) else data.shape
    thin = np.asarray(data[tuple(slice(None, None, max(1, n // 128)) for n in shape)])
    low, high = float(np.nanmin(thin)), float(np.nanmax(thin))
    flat = " ⚠ All pixels are equal." if low == high else ""
    size = " x ".join(str(n) for n in shape)
    return f"Image: {size}, values about {low:.4g} to {high:.4g} ({data.dtype}).{flat}"
