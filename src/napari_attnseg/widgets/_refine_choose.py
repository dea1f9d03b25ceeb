"""The upper part of the Refine dock: which image, which coarse mask, which refinement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_attnseg.viewer.coarse_map import fits_coarse
from napari_attnseg.viewer.edit_watch import EditWatch
from napari_attnseg.viewer.hub import is_result
from napari_attnseg.viewer.refine_models import REFINED, iterations_of, kind_of
from napari_attnseg.widgets import opening
from napari_attnseg.widgets._badge import EngineBadge
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._choose import NO_IMAGE, about, complaining, fill_checkpoints
from napari_attnseg.widgets._parts import Field, LayerCombo, button, hint, narrow, row

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.cards import Card
    from napari_attnseg.viewer.refine_work import RefineWork

OWN = "the refinement's own model"
EMPTY = "Open an image or drop one on the window. Or just press Refine: it opens a sample."
_KINDS = {"cspn": "CSPN", "dyspn": "DySPN"}


class CoarseCombo(LayerCombo):
    """Labels and probability images that fit the chosen image; the first entry is the model's."""

    def __init__(self, work: RefineWork) -> None:
        self._work = work
        super().__init__(
            work.hub.viewer, ("labels", "image"), results=True, optional=OWN, parent=None
        )

    def _fits(self, layer: Layer) -> bool:
        return super()._fits(layer) and fits_coarse(layer, self._work.hub.source)

    def follow(self) -> None:
        """Another image: other layers fit."""
        self._refill()


class ChooseRefinement(QWidget):
    """Writes every choice into the work and follows it; ``moved`` when the mask is another one."""

    moved = Signal()

    def __init__(self, work: RefineWork, complain: Callable[[str], None]) -> None:
        super().__init__()
        self.work, self.hub, self._complain = work, work.hub, complain
        self.image = LayerCombo(self.hub.viewer, ("image",), empty=NO_IMAGE)
        self.empty = hint(EMPTY)
        self.coarse = CoarseCombo(work)
        self.model = narrow(QComboBox())
        self.load = button("File...", "Load a refinement of your own (.safetensors)")
        self.about = hint()
        self.badge = EngineBadge(self.hub)
        self._watched = EditWatch()
        self._lay_out()
        self._listen()
        self.hub.set_source(self.image.layer if self.hub.source is None else self.hub.source)
        self._on_source(self.hub.source)
        self.coarse.choose(work.coarse)
        self.fill_models()

    def _lay_out(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(Field("Image", self.image, "The image layer that steers the refinement"))
        box.addWidget(self.empty)
        tip = (
            "The mask that is refined: that of the model inside the refinement, any labels, or an "
            "image of probabilities from 0 to 1. It may come from anywhere."
        )
        box.addWidget(Field("Coarse mask", self.coarse, tip))
        tip = "What carries the mask on to its neighbours: trained with --refine cspn or dyspn"
        box.addWidget(Field("Refinement", row(self.model, self.load), tip))
        box.addWidget(self.about)
        box.addWidget(self.badge, 0, Qt.AlignmentFlag.AlignLeft)

    def _listen(self) -> None:
        hub, work = self.hub, self.work
        self.image.layer_changed.connect(hub.set_source)
        self.coarse.layer_changed.connect(self._on_coarse)
        self.model.activated.connect(lambda i: self.choose_model(self.model.itemData(i)))
        self.load.clicked.connect(self._load)
        connect_alive(self, hub.source_changed, self._on_source)
        connect_alive(self, hub.models_changed, lambda _: self.fill_models())
        connect_alive(self, hub.live.retuned, lambda *_: self._on_answer())
        connect_alive(self, hub.live.finished, lambda _: self._on_answer())
        connect_alive(self, work.chosen, self.fill_models)
        connect_alive(self, work.chosen, self._show_coarse)
        connect_alive(self, self._watched.edited, self._on_edited)

    # --- what a person can do -----------------------------------------------------------------

    def choose_model(self, name: str) -> None:
        """Refine with this checkpoint; a sentence when it has no refinement in it."""
        with complaining(self._complain):
            self.work.choose(name)
            self.moved.emit()
        self.fill_models()

    def _load(self) -> None:
        with complaining(self._complain):
            path = opening.checked_model_file(self)
            if path:
                self.work.choose(path)
                self.hub.add_model(path)
                self.moved.emit()
        self.fill_models()

    # --- following ------------------------------------------------------------------------------

    def fill_models(self) -> None:
        """The list of refinements, and the line under it."""
        fill_checkpoints(self.model, self.work.models, self.work.checkpoint)
        self.model.setToolTip(self.work.card.text if self.work.card else "")
        words = about(self.work.card, {REFINED: kind_words(self.work.card)})
        self.about.setText(words)
        self.about.setVisible(bool(words))

    def _on_source(self, layer: Any) -> None:
        self.image.choose(layer)
        self.empty.setVisible(layer is None)
        self.coarse.follow()

    def _on_coarse(self, layer: Any) -> None:
        with complaining(self._complain):
            self.work.set_coarse(layer)
            self._watched.follow(layer)
            self.moved.emit()
            return
        self.coarse.choose(self.work.coarse)

    def _show_coarse(self) -> None:
        """The coarse mask as it is, whoever has chosen it (a restored session)."""
        layer = self.work.coarse
        if layer is not self.coarse.layer:
            with QSignalBlocker(self.coarse):
                self.coarse.choose(layer)
            self._watched.follow(layer)

    def _on_edited(self, event: Any = None) -> None:
        self.work.hand_over_again()
        self.moved.emit()

    def _on_answer(self) -> None:
        """The coarse mask is itself an answer: another threshold, another coarse mask."""
        if self._watched.layer is not None and is_result(self._watched.layer):
            self._on_edited()


def kind_words(card: Card | None) -> str:
    """``"CSPN, trained with 6 iterations"``; DySPN has weights for every iteration, of which only
    the last one was asked for an answer."""
    name, tunable = _KINDS.get(kind_of(card), kind_of(card)), iterations_of(card)
    if tunable is None:
        return name
    unfinished = "; fewer give no finished answer" if kind_of(card) == "dyspn" else ""
    return f"{name}, trained with {tunable.default:.0f} iterations{unfinished}"
