"""Several pictures of one attention on one grid: one after the other, and first what they have in
common: the mean of channels or heads, or labels that say which branch or region wins where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.layers import METADATA, map_transform
from napari_attnseg.viewer.level_volumes import axes_of, is_volume, show_volume

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.control.questions import LevelMapFile
    from napari_attnseg.viewer.results import ResultLayers

FIRST = -1
"""Entry that stands for all of them: their mean, or the one that wins at every position."""
WINS, MEAN = "which wins where", "mean"
KINDS = ("branch", "region", "propagation")
"""Kinds of maps that may be several pictures (K, h, w) of which one wins."""
Key = tuple[str, str]
"""Place and name of a map."""


def entry_names(found: LevelMapFile, count: int) -> tuple[str, ...]:
    """Words for the ``count`` pictures of a map: their own, or ``"region 3"``."""
    if len(found.labels) == count:
        return found.labels
    word = found.kind if found.kind in KINDS else "head" if found.kind == "row" else "channel"
    return tuple(f"{word} {i + 1}" for i in range(count))


def overview(found: LevelMapFile) -> str:
    """What is seen first of several pictures, in words."""
    return WINS if found.kind in KINDS else MEAN


def mean_of(found: LevelMapFile, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Channels or heads (C, h, w) as their mean (h, w); anything else as it is. Of a 3D model a
    picture (h, w) is a volume (d, h, w), here and below."""
    several = found.channels and values.ndim == 1 + axes_of(found)
    return values.mean(0, dtype=np.float32) if several else values


class Stacks:
    """Which picture of each map is seen, and the pictures themselves.

    ``names``: words for the pictures of every map that is several. Branches and regions come
    whole with every answer; the channels of a picture only while one of them is looked at.
    """

    def __init__(self) -> None:
        self.names: dict[Key, tuple[str, ...]] = {}
        self._entry: dict[Key, int] = {}
        self._held: dict[Key, tuple[LevelMapFile, int, npt.NDArray[Any]]] = {}

    def clear(self) -> None:
        """Forget all, for another image or model."""
        for kept in (self.names, self._entry, self._held):
            kept.clear()

    def entry(self, key: Key) -> int:
        """The picture that is looked at, from 0 on, or :data:`FIRST`."""
        return self._entry.get(key, FIRST)

    def choose(self, key: Key, entry: int) -> None:
        """Look at another picture."""
        self._entry[key] = entry

    def take(self, found: LevelMapFile, z: int, values: npt.NDArray[Any]) -> bool:
        """Keep an answer's pictures of slice ``z``; whether the map is several."""
        key = (found.place, found.name)
        stack = values.ndim == 1 + axes_of(found)
        whole = stack and (found.kind in KINDS or found.channels > 0)
        if whole:
            self._held[key] = (found, z, values)
            self.names[key] = entry_names(found, max(len(values), found.channels))[: len(values)]
        else:
            self._held.pop(key, None)
            if found.channels:
                self.names.setdefault(key, entry_names(found, found.channels))
        return key in self.names

    def held(self, key: Key, z: int) -> tuple[LevelMapFile, npt.NDArray[Any]] | None:
        """The pictures of slice ``z``, if they are at hand."""
        found, at, values = self._held.get(key, (None, -1, None))
        return None if found is None or values is None or at != z else (found, values)

    def wanted(self, known: Iterable[LevelMapFile], chosen: Collection[Key]) -> tuple[Key, ...]:
        """The maps whose channels must be asked for: one of them is looked at."""
        keys = ((m.place, m.name) for m in known if m.channels)
        return tuple(key for key in keys if key in chosen and self.entry(key) != FIRST)

    def wins(self, key: Key, found: LevelMapFile) -> bool:
        """Whether the map is seen as labels of the one that wins."""
        return found.kind in KINDS and key in self.names and self.entry(key) == FIRST

    def picture(self, key: Key, found: LevelMapFile, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The picture (h, w) that is looked at."""
        entry = self.entry(key)
        several = values.ndim == 1 + axes_of(found) and entry != FIRST
        return values[min(entry, len(values) - 1)] if several else mean_of(found, values)


def winner_ids(values_KHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The number (from 1) of the picture with the largest value at every position."""
    return (np.argmax(values_KHW, axis=0) + 1).astype(np.uint8)


def show_winner(
    results: ResultLayers, what: str, found: LevelMapFile, z: int, values: npt.NDArray[Any]
) -> Labels:
    """The labels layer called ``what`` with the winners among the pictures of slice ``z``."""
    ids = winner_ids(values)
    if is_volume(results, found):
        return show_volume(results, what, found, ids, features=_classes(found, len(values)))
    layer = ensure_winner(results, what, found, values.shape)
    results.write(what, z, ids)
    return layer


def _classes(found: LevelMapFile, count: int) -> dict[str, list[Any]]:
    """What the status bar says of each id."""
    names = entry_names(found, count)
    return {"index": list(range(count + 1)), "class": ["", *names]}


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
    layer = Labels(
        np.zeros(shape, np.uint8),
        name=results.name(what),
        opacity=0.5,
        visible=False,
        features=_classes(found, count),
        metadata={METADATA: {"result_of": results.source.name, "what": what}},
        **map_transform(results.source, found.scale, found.offset),
    )
    layer.editable = False  # it is the model's own choice, not a mask
    results.adopt(what, layer)
    return layer
