"""Which layers along the steps a person wants to see, and what arrives for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_attnseg.viewer.refined import ATTENTION, CHANGE, MASK, PROBABILITY, RefinedLayers
from napari_attnseg.viewer.step_layers import StepLayers

if TYPE_CHECKING:
    import numpy.typing as npt

FILES = {MASK: "labels", PROBABILITY: "probability", CHANGE: "change"}


class ShownSteps:
    """``wanted``: ``MASK`` (with its probability), ``CHANGE``, names of ``ATTENTION``."""

    scrubbed = Signal(int)  # the step that is seen

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.layers: StepLayers | None = None
        self.start = -1  # the step to begin with, -1: the last one

    @property
    def attention(self) -> bool:
        """Whether any attention is to be seen."""
        return not self.wanted.isdisjoint(ATTENTION)

    def take(self, results: RefinedLayers, z: int, files: Mapping[str, npt.NDArray[Any]]) -> None:
        """Bring the wanted layers to slice ``z``."""
        if not self.wanted:
            return
        results.ensure_labels()
        steps = self.layers
        if steps is None or steps.results is not results:
            self.close()
            steps = self.layers = StepLayers(results)
            steps.moved.connect(self.scrubbed.emit)
        for what, file in FILES.items():
            key = MASK if what == PROBABILITY else what
            if key in self.wanted and file in files:
                fresh = not steps.alive(what)
                layer = steps.take(what, z, files[file])
                if what == PROBABILITY and fresh:
                    layer.visible = False
        self._take_attention(steps, z, files)
        if MASK in self.wanted:
            steps.hide_final()
        if self.start >= 0:
            steps.go(self.start)
            self.start = -1

    def unwant(self, what: str) -> None:
        """Take a layer away."""
        self.wanted.discard(what)
        if self.layers is not None:
            self.layers.remove(*((MASK, PROBABILITY) if what == MASK else (what,)))

    def forget_deleted(self, layer: Any) -> bool:
        """``layer`` left the layer list: it is not wanted any more; true if it was one of ours."""
        steps = self.layers
        if steps is None or not any(x is layer for x in steps.layers.values()):
            return False
        gone = next(what for what, x in steps.layers.items() if x is layer)
        self.wanted.discard(gone)
        steps.remove(gone)
        return True

    def close(self) -> None:
        """All layers away; what is wanted stays wanted."""
        if self.layers is not None:
            self.layers.close()
            self.layers = None

    def _take_attention(
        self, steps: StepLayers, z: int, files: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        found = files.get("attention")
        for part, what in enumerate(ATTENTION):
            if what in self.wanted and found is not None and part < found.shape[1]:
                steps.take(what, z, found[:, part], first=1)
