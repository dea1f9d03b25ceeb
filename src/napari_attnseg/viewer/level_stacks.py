"""Several pictures of one attention on one grid: which of them wins where, as a labels layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.layers import METADATA, map_transform

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.control.questions import LevelMapFile
    from napari_attnseg.viewer.results import ResultLayers

WINNER = -1
"""Entry that stands for the one that wins at every position."""
KINDS = ("branch", "region", "propagation")
"""Kinds of maps that may be several pictures (K, h, w)."""


def entry_names(found: LevelMapFile, count: int) -> tuple[str, ...]:
    """Words for the ``count`` pictures of a map: their own, or ``"region 3"``."""
    if len(found.labels) == count:
        return found.labels
    return tuple(f"{found.kind} {i + 1}" for i in range(count))


def winner_ids(values_KHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The number (from 1) of the picture with the largest value at every position."""
    return (np.argmax(values_KHW, axis=0) + 1).astype(np.uint8)


def ensure_winner(
    results: ResultLayers, what: str, found: LevelMapFile, shape_KHW: tuple[int, ...]
) -> Labels:
    """The labels layer called ``what`` on the map's own grid, made empty when it is not there."""
    from napari.layers import Labels

    count, *grid = shape_KHW
    old = results.layer(what)
    flat = results.source.ndim == 2
    shape = tuple(grid) if flat else (results.shape[0], *grid)
    if old is not None and old.data.shape == shape:
        return old
    if old is not None:
        results.viewer.layers.remove(old)
    names = entry_names(found, count)
    layer = Labels(
        np.zeros(shape, np.uint8),
        name=results.name(what),
        opacity=0.5,
        visible=False,
        features={"index": list(range(count + 1)), "class": ["", *names]},
        metadata={METADATA: {"result_of": results.source.name, "what": what}},
        **map_transform(results.source, found.scale, found.offset),
    )
    layer.editable = False  # it is the model's own choice, not a mask
    results.adopt(what, layer)
    return layer
