"""Tidying a labels layer as one step that Ctrl+Z takes back, ours or anybody's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.tidying import FILL_2D, FILL_3D, KEEP_LARGEST, tidy
from napari_attnseg.viewer import journal
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.measure_layers import behind_window, ids_of

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.viewer.results import ResultLayers

TITLES = {
    KEEP_LARGEST: "keep the largest part",
    FILL_2D: "fill holes in each slice",
    FILL_3D: "fill holes in 3D",
}
STEPS = "steps"
"""Key of the steps that were applied, in our entry of a layer's metadata."""


def tidy_layer(
    layer: Labels,
    results: ResultLayers | None,
    step: str,
    deliver: Callable[[Callable[[], None]], None],
    done: Callable[[int], object],
    complain: Callable[[str], object],
) -> None:
    """Apply one step of ``io.tidying`` to ``layer``: computed in a thread, put in by the window.

    ``results``: those whose labels the layer is, ``None`` for any other layer. ``done`` gets the
    number of changed pixels; ``complain`` one sentence when nothing was changed, for example
    because somebody painted meanwhile.
    """
    before = np.array(ids_of(layer))

    def put(after: np.ndarray) -> None:
        try:
            done(_put(layer, results, step, before, after))
        except InputError as error:
            complain(str(error))

    behind_window(lambda: tidy(before, (step,)), deliver, put, complain)


def _put(
    layer: Labels,
    results: ResultLayers | None,
    step: str,
    before: np.ndarray,
    after: np.ndarray,
) -> int:
    if not np.array_equal(ids_of(layer), before):
        raise InputError("the mask changed meanwhile, so nothing was done; press the button again")
    if results is not None:
        pixels = journal.apply(results, TITLES[step], lambda _: after)
    else:
        where = np.nonzero(before != after)
        pixels = len(where[0])
        if pixels:
            layer.data_setitem(where[-layer.ndim :], after[where])
    if pixels:
        entry: dict[str, Any] = layer.metadata.setdefault(METADATA, {})
        entry.setdefault(STEPS, []).append({"step": step, "pixels": pixels})
    return pixels


def steps_of(layer: Labels) -> list[dict[str, Any]]:
    """The steps that were applied to a layer, the first one first, with the pixels they changed
    (also those that were taken back later)."""
    entry = layer.metadata.get(METADATA)
    return list(entry.get(STEPS, ())) if isinstance(entry, dict) else []
