"""Which labels layers of a window are a person's own, and their journals."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.io.journal import Journal
from napari_attnseg.viewer.image_changes import digest_in
from napari_attnseg.viewer.journal_painted import (
    PaintedBook,
    can_be_kept,
    is_own,
    labels_facts,
    stack_of,
)
from napari_attnseg.viewer.session_image import image_facts

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

    from napari_attnseg.viewer.hub import Hub

Begin = Callable[["Layer | None", dict[str, Any]], "Journal | None"]


class PaintedLayers:
    """Begins a journal when a person paints on a labels layer of their own.

    ``begin`` makes an empty one for an image and facts.
    """

    def __init__(self, hub: Hub, begin: Begin) -> None:
        self._hub = weakref.ref(hub)
        self._begin = begin
        self._books: dict[int, PaintedBook] = {}
        self._follows: dict[int, tuple[Labels, Any, Any]] = {}
        layers = hub.viewer.layers
        layers.events.inserted.connect(self._on_inserted)
        layers.events.removed.connect(self._on_removed)
        for layer in layers:
            self._follow(layer)

    @property
    def books(self) -> list[PaintedBook]:
        """The journals of layers that are there."""
        return list(self._books.values())

    def kept(self, layer: Layer) -> bool:
        """Whether the journal of ``layer`` is on the disk as it is now; waits for it."""
        book = self._books.get(id(layer))
        return book is not None and book.wait()

    def attach(self, layer: Labels, **more: Any) -> PaintedBook | None:
        """Begin the journal of ``layer``; ``None`` when it cannot be kept."""
        hub = self._hub()
        if hub is None or hub.closed or not is_own(layer) or not can_be_kept(layer):
            return None
        known = self._books.pop(id(layer), None)
        if known is not None:
            known.close()
        image = _under(hub, layer)
        facts = _facts(hub, layer, image) | more
        journal = self._begin(image, facts)
        if journal is None:
            return None
        book = self._books[id(layer)] = PaintedBook(layer, journal, bool(more.get("saved")))
        return book

    def close(self) -> None:
        """The window was closed in order."""
        for layer, paint, data in self._follows.values():
            layer.events.paint.disconnect(paint)
            layer.events.data.disconnect(data)
        self._follows.clear()
        for book in self._books.values():
            book.close()
        self._books.clear()

    # --- inside ---------------------------------------------------------------------------------

    def _on_inserted(self, event: Any) -> None:
        self._follow(event.value)

    def _on_removed(self, event: Any) -> None:
        """A layer that was removed keeps its journal: a person may have slipped."""
        book = self._books.pop(id(event.value), None)
        if book is not None:
            book.close()
        follow = self._follows.pop(id(event.value), None)
        if follow is not None:
            follow[0].events.paint.disconnect(follow[1])
            follow[0].events.data.disconnect(follow[2])

    def _follow(self, layer: Any) -> None:
        if layer._type_string != "labels" or id(layer) in self._follows:
            return
        paint, data = partial(self._on_paint, layer), partial(self._on_data, layer)
        layer.events.paint.connect(paint)
        layer.events.data.connect(data)
        self._follows[id(layer)] = layer, paint, data

    def _on_paint(self, layer: Labels, event: Any = None) -> None:
        if id(layer) not in self._books:
            book = self.attach(layer)
            if book is not None:
                book._on_paint(event)

    def _on_data(self, layer: Labels, event: Any = None) -> None:
        """The layer was given other pixels, or another type of them."""
        book = self._books.get(id(layer))
        if book is None:
            return
        if book.fits:
            book.whole()
        else:
            self.attach(layer)


def image_of(hub: Hub, layer: Layer) -> dict[str, Any]:
    """An image as plain data, and the digest of its pixels where the engine has counted them."""
    return image_facts(layer) | {"digest": digest_in(hub._bringing.handed(layer))}  # type: ignore[arg-type]


def _under(hub: Hub, layer: Labels) -> Layer | None:
    """The image that a labels layer most likely lies on: of its size, the chosen one first."""
    from napari_attnseg.viewer.hub import is_result
    from napari_attnseg.viewer.strokes import spatial_shape

    images = [x for x in hub.viewer.layers if x._type_string == "image" and not is_result(x)]
    images.sort(key=lambda x: x is not hub.source)
    return next((x for x in images if spatial_shape(x) == layer.data.shape), None)


def _facts(hub: Hub, layer: Labels, image: Layer | None) -> dict[str, Any]:
    """As :func:`viewer.journal_keeper.facts_of`; ``bare``: it lies on no image."""
    from napari_attnseg import __version__

    shape = [int(n) for n in stack_of(layer).shape]
    bare = {"name": layer.name, "path": "", "shape": shape, "bare": True}
    return {
        "program": f"napari-attnseg {__version__}",
        "painted": labels_facts(layer),
        "image": bare if image is None else image_of(hub, image),
        "model": "",
        "tuning": {},
        "provenance": {},
        "z": hub.visible_z(),
        "shape": shape,
        "axes": int(layer.data.ndim),
        "dtype": np.dtype(layer.data.dtype).str,
        "labels": layer.name,
    }
