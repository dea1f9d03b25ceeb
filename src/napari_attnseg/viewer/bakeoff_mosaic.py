"""Many contestants of a bake-off as one large picture.

napari lays its grid out anew for every layer that comes or goes, so that three layers for each of
forty contestants cost minutes. Here image, maps and masks of all are three layers in all, with the
names as a fourth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST = 4096
"""Pixels of a side; images are thinned to fit, which graphics cards need too."""
WIDE = 1.35
"""The canvas is so much wider than high."""
LEAST = 0.02
"""The lowest value of a map; below lies where there is none."""
LETTERS = 13
"""Of a name, that fit over a cell."""


@dataclass(frozen=True)
class Mosaic:
    """``image`` (Y, X) or (Y, X, 3), ``maps`` from ``LEAST`` to 1, ``masks`` (Y, X), 0 between the
    cells; ``names`` and their places (row, column). Pixels are ``thinned`` by so much."""

    image: npt.NDArray[Any]
    maps: npt.NDArray[np.float32]
    masks: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    places: npt.NDArray[np.float64]
    thinned: int


def mosaic_of(pixels: npt.NDArray[Any], cells: Sequence[Mapping[str, Any]]) -> Mosaic:
    """Lay out ``cells`` (``name``, ``mask_data``; ``dice`` and ``map`` where there are) row by
    row over copies of ``pixels``."""
    rows, columns = pixels.shape[:2]
    cells_wide = math.sqrt(len(cells) * WIDE * rows * (1 + 1 / 5) / columns)
    across = min(len(cells), max(1, round(cells_wide)))
    down = -(-len(cells) // across)
    gap, top = max(1, columns // 14), max(2, rows // 5)
    thinned = max(1, -(-max(down * (rows + top), across * (columns + gap)) // LARGEST))
    small = pixels[::thinned, ::thinned]
    h, w = small.shape[:2]
    gap, top = max(1, w // 14), max(2, h // 5)
    size = (down * (h + top), across * (w + gap))
    image = np.zeros((*size, *small.shape[2:]), small.dtype)
    maps, masks = np.zeros(size, np.float32), np.zeros(size, np.uint8)
    places = np.zeros((len(cells), 2))
    for i, cell in enumerate(cells):
        y, x = (i // across) * (h + top) + top, (i % across) * (w + gap)
        here = np.s_[y : y + h, x : x + w]
        image[here] = small
        masks[here] = cell["mask_data"][::thinned, ::thinned]
        if "map" in cell:
            maps[here] = _spread(cell, (rows, columns))[::thinned, ::thinned]
        places[i] = y - top * 0.7, x
    return Mosaic(image, maps, masks, tuple(map(_words, cells)), places, thinned)


def _spread(cell: Mapping[str, Any], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A map on the pixels of its image, each with the value of the nearest position, over its own
    range."""
    values = np.load(cell["map"]).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    values = LEAST + (1 - LEAST) * (values - low) / ((high - low) or 1)
    at = [
        np.clip(np.rint((np.arange(n) - offset) / scale), 0, size - 1).astype(int)
        for n, scale, offset, size in zip(
            shape, cell["map_scale"], cell["map_offset"], values.shape, strict=True
        )
    ]
    return np.asarray(values[np.ix_(*at)], np.float32)


def _words(cell: Mapping[str, Any]) -> str:
    name, dice = str(cell["name"]), cell.get("dice")
    name = name if len(name) <= LETTERS else f"{name[: LETTERS - 1].rstrip()}…"
    return name + (f" {dice:.2f}" if dice is not None else "")
