"""A/B against other values, by default plain attention: which pixels were gained, lost, kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QLabel, QVBoxLayout, QWidget

from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._parts import button, hint, row
from napari_attnseg.widgets._plots import inks

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers

TUNED, PLAIN, DIFFERENCE = range(3)
COLOURS = {1: "#9aa5b1", 2: "#1fbf75", 3: "#e8467c"}
NAMES = {1: "kept", 2: "gained", 3: "lost"}


@dataclass(frozen=True)
class Words:
    """What the three buttons say (shown, other, difference), their tooltips, and the hint.

    ``same``: said when nothing differs.
    """

    captions: tuple[str, str, str]
    tips: tuple[str, str, str]
    idle: str
    same: str = "Both masks are the same."


PLAIN_WORDS = Words(
    ("Tuned", "Plain", "Difference"),
    (
        "The labels at the values chosen above",
        "The labels of plain attention (threshold 2: no cell is over it)",
        "Pixels gained, lost and kept by the threshold",
    ),
    "Plain attention is the same network with the threshold out of reach.",
    "Same as plain attention: at these values the threshold changes no pixel.",
)


def difference(tuned: NDArray[Any], plain: NDArray[Any]) -> NDArray[np.uint8]:
    """1 where both masks have a class, 2 where only the tuned one has, 3 where only plain has."""
    a, b = tuned > 0, plain > 0
    return (a & b) * np.uint8(1) + (a & ~b) * np.uint8(2) + (~a & b) * np.uint8(3)


def reference_slice(layer: Labels, shape: tuple[int, ...], z: int) -> NDArray[np.uint16]:
    """Class ids (Y, X) of slice ``z``; raises ``InputError`` unless the layer is ``shape``."""
    data = layer.data
    stack = data[None] if data.ndim == 2 else data
    if tuple(stack.shape) != tuple(shape):
        raise InputError(
            f"the reference {layer.name!r} is {tuple(data.shape)} but the image is "
            f"{tuple(shape)} (slices, rows, columns); choose labels made on this image."
        )
    return np.asarray(stack[z]).astype(np.uint16)


class ComparePanel(QWidget):
    """Three views of the visible slice: the tuned mask, the other one, and what differs.

    ``against``: the values of the other one, read when it is asked for (none: plain attention).
    Nothing is changed by looking: the labels layer is hidden, never overwritten, while another
    view is shown.
    """

    failed = Signal(str, str)  # sentence, report

    def __init__(
        self,
        hub: Hub,
        parent: QWidget | None = None,
        *,
        words: Words = PLAIN_WORDS,
        against: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        super().__init__(parent)
        self._hub, self._against = hub, against
        self._same = words.same
        self._hidden: Any = None
        self._results: ResultLayers | None = None
        self.mode = TUNED
        self.buttons = [button(c, t) for c, t in zip(words.captions, words.tips, strict=True)]
        self.buttons[DIFFERENCE].setText("Diff (Alt+D)")
        self.buttons[DIFFERENCE].setShortcut("Alt+D")
        group = QButtonGroup(self)
        for i, made in enumerate(self.buttons):
            made.setCheckable(True)
            group.addButton(made, i)
        group.idClicked.connect(self._on_clicked)
        self.buttons[TUNED].setChecked(True)
        self.counts = QLabel()
        self.counts.setTextFormat(Qt.TextFormat.RichText)
        self.counts.setWordWrap(True)
        self.counts.setToolTip("Of the model's own masks of this slice, without painted pixels")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(3)
        box.addWidget(row(*self.buttons, stretch=-1))
        box.addWidget(self.counts)
        self._idle = hint(words.idle)
        box.addWidget(self._idle)
        self.counts.hide()
        connect_alive(self, hub.live.retuned, self._on_retuned)
        connect_alive(self, hub.slice_changed, self._on_slice)
        connect_alive(self, hub.model_changed, lambda _: self._end())
        connect_alive(self, hub.source_changed, lambda _: self._end())

    def set_mode(self, mode: int, again: bool = False) -> None:
        """Show ``TUNED``, ``PLAIN`` or ``DIFFERENCE``; ``again``: the other values are new."""
        back = mode == DIFFERENCE == self.mode and not again
        self.mode = TUNED if back else mode  # the shortcut goes there and back
        self.buttons[self.mode].setChecked(True)
        comparing = self.mode != TUNED
        self.counts.setVisible(comparing)
        self._idle.setVisible(not comparing)
        if comparing:
            self._hub.bring(lambda: self._compare(again))
        else:
            self._compare(again)

    def _compare(self, again: bool) -> None:
        """Ask for what is to be shown; the image is there, the dock perhaps no more."""
        if not isalive(self):
            return
        comparing = self.mode != TUNED
        if comparing:
            self._results = self._hub.prepare()
        if self._hub.live.state.compare != comparing or again:
            self._hub.live.compare(comparing, **self._against())
        elif comparing:
            self._hub.live.refresh()
        self._arrange()

    def _end(self) -> None:
        """A comparison belongs to one image and model: their labels are seen again."""
        self.mode = TUNED
        self.buttons[TUNED].setChecked(True)
        self.counts.hide()
        self._idle.show()
        self._arrange()
        self._results = None

    def _on_clicked(self, mode: int) -> None:
        try:
            self.set_mode(mode)
        except AttnSegError as error:
            self._end()
            self.failed.emit(str(error), "")

    def _on_slice(self, z: int) -> None:
        if self.mode != TUNED:
            self._hub.live.refresh()

    def _on_retuned(self, event: Any, labels: Any, probability: Any, plain: Any) -> None:
        results = self._hub.answered
        if results is None or plain is None or self.mode == TUNED:
            return
        self._results = results
        for what in ("plain", "difference"):
            self._ensure(results, what)
        results.write("plain", event.z, plain)
        results.write("difference", event.z, difference(labels, plain))
        self._arrange()
        within = f"<br>In one window of this 3D model: {event.window}." * bool(event.window)
        if not event.gained and not event.lost:
            self.counts.setText(self._same + within)
            return
        ink = inks(self.counts)
        shades = {2: "#2fd18a" if ink.dark else "#0b7a48", 3: "#ff7aa6" if ink.dark else "#b3164f"}
        parts = [(2, event.gained, "gained"), (3, event.lost, "lost"), (1, event.kept, "kept")]
        self.counts.setText(
            "pixels: "
            + " &nbsp; ".join(
                f"<span style='color:{shades.get(k, ink.text)}'><b>{n:,}</b>&nbsp;{word}</span>"
                for k, n, word in parts
            )
            + within
        )

    def _ensure(self, results: ResultLayers, what: str) -> None:
        if results.layer(what) is not None:
            return
        labels = results.layer("labels")
        if what == "difference":
            results.add_labels(what, COLOURS, NAMES).opacity = 0.75
        elif labels is not None:
            results.add_labels(what, COLOURS).colormap = labels.colormap

    def _arrange(self) -> None:
        """Only the chosen one of the three layers is seen; others keep their place."""
        results = self._results
        if results is None:
            return
        labels = results.layer("labels")
        for mode, what in ((PLAIN, "plain"), (DIFFERENCE, "difference")):
            layer = results.layer(what)
            if layer is not None and layer.visible != (self.mode == mode):
                layer.visible = self.mode == mode
        if labels is None:
            return
        if self.mode == TUNED and self._hidden is labels:
            labels.visible, self._hidden = True, None
        elif self.mode != TUNED and labels.visible:
            labels.visible, self._hidden = False, labels
