"""The refined mask of an image, and the names of what a refinement shows beside it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_attnseg.viewer.results import ResultLayers
from napari_attnseg.viewer.strokes import is_strokes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Image, Labels, Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.control.refiner import RefineState

MASK, PROBABILITY, CHANGE = "steps", "steps probability", "steps change"
ATTENTION = ("attention centre", "attention ring 1", "attention ring 2", "attention ring 3")
"""What layers along the steps are called behind image and model; attention in the order of the
engine."""


class RefinedLayers(ResultLayers):
    """The refined mask of one image by one refinement, ``<image>_<model>_refined``.

    As with every answer, what a person paints on it stays.
    """

    def ensure_labels(self) -> Labels:
        """The refined mask, created empty when it is not there; the chosen layer stays chosen."""
        if self.labels is None or not self.alive(self.labels):
            self.labels = self.add_labels("refined", self._colors(), self._class_names())
            self.maps.pop("refined")
            self.edits = self._hand_edits(self.labels)
        return self.labels

    def ensure_probability(self) -> Image:
        """The probability behind the mask, hidden at first."""
        return self.ensure_map(
            "refined_probability", colormap="magma", contrast_limits=(0.0, 1.0), visible=False
        )

    def take(
        self, z: int, labels_YX: npt.NDArray[Any], probability_YX: npt.NDArray[Any] | None
    ) -> None:
        """Put the answer for slice ``z`` into both layers, under the hand edits."""
        self.ensure_labels()
        self.write_labels(z, labels_YX)
        if probability_YX is not None:
            self.ensure_probability()
            self.write("refined_probability", z, probability_YX)

    def record(self, state: RefineState, kind: str, coarse: str, strokes: int) -> None:
        """How the mask came about; its export says so. ``strokes``: painted pixels."""
        from napari_attnseg import __version__

        card = self.card
        self.provenance = {
            "program": f"napari-attnseg {__version__}",
            "model": self.model,
            "model_digest": card.digest if card else "",
            "preprocessing": asdict(card.preprocessing) if card else {},
            "tuning": state.tuning.replace(iterations=state.iterations).to_json(),
            "refinement": kind,
            "iterations": state.iterations,
            "coarse_mask": coarse,
            "stroke_pixels": strokes,
            "stroke_strength": state.strength,
            "strokes_carried_slices": state.carry,
        }

    def _insert(self, layer: Layer, index: int, choose: bool = False) -> None:
        """Strokes stay on top: they are what is painted on."""
        layers = self.viewer.layers
        place = min([index, *(layers.index(x) for x in layers if is_strokes(x))])
        super()._insert(layer, place, choose)

    def _entry(self, what: str) -> dict[str, Any]:
        return super()._entry("labels" if what == "refined" else what) | {"what": what}


def hide(viewer: ViewerModel, layers: Iterable[Layer | None]) -> str:
    """Hide those that are seen; returns their names, joined by "and"."""
    seen = [x for x in layers if x is not None and x in viewer.layers and x.visible]
    for layer in seen:
        layer.visible = False
    return " and ".join(dict.fromkeys(layer.name for layer in seen))
