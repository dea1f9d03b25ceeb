"""Attention as image, relief and scatter, at one threshold or at two side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QVBoxLayout, QWidget

from napari_attnseg.control.messages import (
    AttentionRow,
    EngineLost,
    Event,
    Failed,
    Retune,
    Retuned,
    RowDone,
)
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning
from napari_attnseg.viewer.attention3d import Kind, remove_views, show_maps
from napari_attnseg.viewer.relief import AttentionMap
from napari_attnseg.viewer.stage3d import Stage3D
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._colours import ColourScale
from napari_attnseg.widgets._parts import Field, button, hint, narrow, row

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

RECEIVED, STEP, MASK, GATED = "attention received", "step", "step > threshold", "gated output"
_TIPS = {
    RECEIVED: "How much all other cells look at a cell: the mean of its column of attention.",
    STEP: "How much a cell's attention differs from its neighbours': what the threshold cuts.",
    MASK: "The cells that are over the threshold.",
    GATED: "The probability map that the gated features give.",
}
Answer = tuple[RowDone, NDArray[Any], NDArray[Any] | None]


class MapAsker:
    """Asks the engine for the maps of one slice at several tunings, one after the other.

    Uses folders and numbers of its own, so that live answers are not disturbed.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._asked: tuple[int, ...] = ()
        self._about: Any = None
        self._found: dict[int, Any] = {}
        self._folders: dict[int, str] = {}
        self._then: Callable[[list[Any]], None] = lambda answers: None
        self._failed: Callable[[str, str], None] = lambda sentence, report: None
        self._unsubscribe = hub.client.subscribe(self._on_event)

    def ask(
        self,
        tunings: list[Tuning],
        probability: bool,
        then: Callable[[list[Any]], None],
        failed: Callable[[str, str], None],
    ) -> None:
        """``then`` gets, per tuning, ``(RowDone, received (h,w), probability (Y,X) | None)``."""
        state, client = self._hub.live.state, self._hub.client
        if not state.ready or state.image is None:
            return
        self._then, self._failed, self._found = then, failed, {}
        target: dict[str, Any] = {
            "image": state.image,
            "checkpoint": state.checkpoint,
            "device": state.device,
            "z": state.z,
        }
        requests: list[AttentionRow | Retune] = []
        for i, tuning in enumerate(tunings):
            folder = self._folder(i)
            requests.append(AttentionRow(out=folder, tuning=tuning, **target))
            if probability:
                requests.append(Retune(out=folder, tuning=tuning, **target))
        numbered = [replace(r, id=client.new_id()) for r in requests]
        self._asked = tuple(r.id for r in numbered)
        self._about = self._hub.results
        self._folders = {r.id: r.out for r in numbered}
        for request in numbered:
            client.send(request)

    def close(self) -> None:
        """Stop listening."""
        self._unsubscribe()

    def _folder(self, i: int) -> str:
        if not hasattr(self, "_made"):
            self._made: dict[int, str] = {}
        if i not in self._made:
            self._made[i] = str(self._hub.scratch.folder(f"view{i}"))
        return self._made[i]

    def _on_event(self, event: Event) -> None:
        if isinstance(event, EngineLost) and set(event.lost) & set(self._asked):
            self._asked = ()
            return
        if event.id not in self._asked:
            return
        if isinstance(event, Failed):
            self._asked = ()
            self._failed(event.message, event.report)
        elif isinstance(event, RowDone):
            received = np.load(event.received, allow_pickle=False) if event.received else None
            self._note(event.id, (event, received))
        elif isinstance(event, Retuned):
            path = f"{self._folders[event.id]}/live_probability.npy"
            self._note(event.id, np.array(np.load(path, mmap_mode="r")[event.buffer]))

    def _note(self, number: int, answer: Any) -> None:
        self._found[number] = answer
        if set(self._found) >= set(self._asked):
            answers = [self._found[i] for i in self._asked]
            self._asked = ()
            if self._about is not self._hub.results:
                return  # another image or model was chosen meanwhile
            rows = [a for a in answers if isinstance(a, tuple)]
            images = [a for a in answers if not isinstance(a, tuple)] or [None] * len(rows)
            self._then([(*r, p) for r, p in zip(rows, images, strict=True)])


class MapsPanel(QWidget):
    """Choose what to look at, at which thresholds, and in which form."""

    failed = Signal(str, str)  # sentence, report

    def __init__(self, hub: Hub, step: Callable[[], NDArray[Any]], parent: Any = None) -> None:
        """``step`` gives the flat step values of the visible slice (empty if unknown)."""
        super().__init__(parent)
        self._hub, self._step = hub, step
        self._asker = MapAsker(hub)
        self.destroyed.connect(lambda *_, asker=self._asker: asker.close())
        self.stage = Stage3D(hub.viewer)
        self._kind: Kind = "image"
        self._thresholds: list[float] = []
        self._build()
        connect_alive(self, hub.live.state_changed, self._on_state)

    def _build(self) -> None:
        self.what = narrow(QComboBox(self))
        for name, tip in _TIPS.items():
            self.what.addItem(name)
            self.what.setItemData(self.what.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.what.currentTextChanged.connect(lambda _: self._explain())
        self.two = QCheckBox("two thresholds, side by side")
        self.two.setToolTip("One map stands on the image, the other to its right, on one scale")
        self.two.toggled.connect(self._on_two)
        self.first, self.second = self._spin("left"), self._spin("right")
        self.pair = row(self.first, self.second, stretch=-1)
        self.pair.hide()
        self.image_button = button("Image", "A heat map over the visible slice")
        self.surface_button = button("Surface", "A relief in 3D: height is attention")
        self.points_button = button("Points", "One ball per cell in 3D: height is attention")
        self.image_button.clicked.connect(lambda: self.show_maps("image"))
        self.surface_button.clicked.connect(lambda: self.show_maps("surface"))
        self.points_button.clicked.connect(lambda: self.show_maps("points"))
        self.back = button(
            "Back to 2D",
            "Leave the 3D view: reliefs and scatters go, other layers are shown again as before",
        )
        self.back.clicked.connect(self._leave)
        self.clear = button("Remove views", "Take these attention views out of the layer list")
        self.clear.clicked.connect(self._on_clear)
        self.words = hint()
        self.scale = ColourScale()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        for part in (
            Field("Show", self.what, "Which map of the visible slice is shown"),
            self.two,
            self.pair,
            row(self.image_button, self.surface_button, self.points_button, stretch=-1),
            row(self.back, self.clear, stretch=-1),
            self.scale,
            self.words,
        ):
            box.addWidget(part)
        self._explain()

    def _spin(self, where: str) -> QDoubleSpinBox:
        spin = QDoubleSpinBox(self)
        spin.setRange(0.0, PLAIN_THRESHOLD)
        spin.setDecimals(4)
        spin.setSingleStep(0.01)
        spin.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        spin.setToolTip(f"Threshold of the map on the {where}; 2 is plain attention")
        return spin

    def show_maps(self, kind: Kind) -> None:
        """Ask for the maps of the visible slice and show them as ``kind`` when they come."""
        tuning = self._hub.tuning
        now = float(tuning.get("threshold", PLAIN_THRESHOLD))
        pair = [self.first.value(), self.second.value()]
        self._kind, self._thresholds = kind, pair if self.two.isChecked() else [now]
        tunings = [tuning.replace(threshold=t) for t in self._thresholds]
        gated = self.what.currentText() == GATED
        try:
            self._hub.bring(lambda: self._asker.ask(tunings, gated, self._on_maps, self._fail))
        except AttnSegError as error:
            self._fail(str(error), "")

    # --- inside -------------------------------------------------------------------------------

    def _on_maps(self, answers: list[Answer]) -> None:
        hub, results = self._hub, self._hub.results
        if results is None or hub.source is None or not answers:
            return
        try:
            maps = [self._map(i, *answer) for i, answer in enumerate(answers)]
        except AttnSegError as error:
            self._fail(str(error), "")
            return
        self.stage.remember_choice()
        shown = show_maps(hub.viewer, hub.source, maps, self._kind)
        self.scale.follow(shown[0], self.what.currentText())
        if self._kind != "image":
            self.stage.enter(hub.source, maps[0].z)

    def _map(self, i: int, event: RowDone, received: Any, probability: Any) -> AttentionMap:
        threshold, results = self._thresholds[i], self._hub.results
        assert results is not None
        what = self.what.currentText()
        if received is None:
            raise InputError("this model has no attention map; choose a model with attention.")
        cell, offset = event.map_scale, event.map_offset
        if what == RECEIVED:
            values = received
        elif what == GATED:
            values, cell, offset = self._thinned(probability)
        else:
            step = np.asarray(self._step(), dtype=np.float32)
            if step.size != received.size:
                raise InputError(
                    "the step values of this slice are not there yet; wait for the curves above."
                )
            values = step.reshape(received.shape)
            values = (values > threshold).astype(np.float32) if what == MASK else values
        at = "plain" if threshold >= PLAIN_THRESHOLD else f"{threshold:.3g}"
        name = results.name(f"{what} at {at} ({self._kind})")
        return AttentionMap(values, cell, name, event.z, offset, side=i)

    def _thinned(
        self, probability: NDArray[Any]
    ) -> tuple[NDArray[Any], tuple[float, float], tuple[float, float]]:
        """A relief of every pixel would be millions of triangles: keep about 256 x 256 cells."""
        k = 1 if self._kind == "image" else max(1, -(-max(probability.shape) // 256))
        h, w = (n // k * k for n in probability.shape)
        blocks = probability[:h, :w].reshape(h // k, k, w // k, k).mean((1, 3))
        return blocks, (float(k), float(k)), ((k - 1) / 2, (k - 1) / 2)

    def _on_two(self, on: bool) -> None:
        self.pair.setVisible(on)
        if on:
            self.first.setValue(float(self._hub.tuning.get("threshold", 0.0)))
            self.second.setValue(PLAIN_THRESHOLD)
        self._explain()

    def _on_state(self, state: Any) -> None:
        self._explain()

    def _explain(self) -> None:
        """Say when a threshold cannot change what is shown."""
        what, rule = self.what.currentText(), self._hub.tuning.get("rule", "paper")
        if what == RECEIVED and rule != "authors":
            words = (
                f"Under the rule “{rule}” the threshold does not alter the attention itself: "
                "see step > threshold, or the gated output."
            )
        elif what == STEP:
            words = "Step never depends on the threshold: it is what the threshold cuts."
        else:
            words = _TIPS[what]
        if self.words.text() != words:
            self.words.setText(words)

    def _leave(self) -> None:
        self.stage.leave()
        if self._kind != "image":
            self.scale.follow(None)

    def _on_clear(self) -> None:
        if self.stage.entered:
            self.stage.leave()
        remove_views(self._hub.viewer)
        self.scale.follow(None)

    def _fail(self, sentence: str, report: str) -> None:
        self.failed.emit(sentence, report)
