"""The layers that models made of the images of one window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.viewer.results import ResultLayers


class Made:
    """:class:`ResultLayers` by image and checkpoint, oldest first.

    ``gone``: some of them have their labels no more, or have them again; with a sentence, if there
    is anything to be said.
    """

    gone = Signal(object, str)  # the labels layer, a sentence or ""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], ResultLayers] = {}

    def get(self, source: Layer | None, checkpoint: str) -> ResultLayers | None:
        """What a model made of an image, if it did."""
        return self._known.get((id(source), checkpoint)) if source is not None else None

    def put(self, checkpoint: str, results: ResultLayers) -> None:
        """In the place of what this model made of the same image before."""
        self._known[id(results.source), checkpoint] = results
        results.lost.connect(self._on_lost)

    def former(self, source: Layer | None, checkpoint: str) -> list[ResultLayers]:
        """What other models made of an image."""
        return [
            results
            for (image, name), results in self._known.items()
            if image == id(source) and name != checkpoint
        ]

    @property
    def every(self) -> list[tuple[str, ResultLayers]]:
        """Checkpoint and layers of all images and models."""
        return [(name, results) for (_, name), results in self._known.items()]

    def forget(self, source: Layer) -> None:
        """An image was closed."""
        for key in [key for key in self._known if key[0] == id(source)]:
            del self._known[key]

    def _on_lost(self, layer: Layer, words: str) -> None:
        self.gone.emit(layer, words)
