"""Tidying a labels layer as one step that Ctrl+Z takes back, ours or anybody's layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.tidying import FILL_2D, FILL_3D, KEEP_LARGEST, keep_largest, tidy
from napari_attnseg.viewer import journal
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.measure_layers import behind_window, ids_of

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_attnseg.viewer.edits import HandEdits
    from napari_attnseg.viewer.journal_steps import Step
    from napari_attnseg.viewer.results import ResultLayers

TITLES = {
    KEEP_LARGEST: "keep the largest part",
    FILL_2D: "fill holes in each slice",
    FILL_3D: "fill holes in 3D",
}
STEPS = "steps"
"""Key of the steps that were applied, in our entry of a layer's metadata."""
BACK = "steps taken back"
_followed: WeakSet[HandEdits] = WeakSet()


def tidy_layer(
    layer: Labels,
    results: ResultLayers | None,
    step: str,
    deliver: Callable[[Callable[[], None]], None],
    done: Callable[[int], object],
    complain: Callable[[str], object],
    only: int | None = None,
) -> None:
    """Apply one step of ``io.tidying`` to ``layer``: computed in a thread, put in by the window.

    ``results``: those whose labels the layer is, ``None`` for any other layer. ``done`` gets the
    number of changed pixels; ``complain`` one sentence when nothing was changed, for example
    because somebody painted meanwhile.
    """
    ids = ids_of(layer)

    def work() -> _Found:
        before = np.array(ids)
        largest = step == KEEP_LARGEST
        after = keep_largest(before, only=only) if largest else tidy(before, (step,))
        return _Found(before, after, np.nonzero(before != after))

    def put(found: _Found) -> None:
        try:
            done(_put(layer, results, step, found, only))
        except InputError as error:
            complain(str(error))

    behind_window(work, deliver, put, complain)


@dataclass(frozen=True, eq=False)
class _Found:
    """The ids a step was made of, those it gave, and where they differ (indices per axis)."""

    before: np.ndarray
    after: np.ndarray
    where: tuple[np.ndarray, ...]


def _put(
    layer: Labels, results: ResultLayers | None, step: str, found: _Found, only: int | None
) -> int:
    """In the window's thread: nothing here looks at all voxels but the comparison."""
    if not np.array_equal(ids_of(layer), found.before):
        raise InputError("the mask changed meanwhile, so nothing was done; press the button again")
    pixels = len(found.where[0])
    if results is not None:
        pixels = journal.apply(results, TITLES[step], lambda _: found.after)
    elif pixels:
        layer.data_setitem(found.where[-layer.ndim :], found.after[found.where])
    if pixels:
        entry: dict[str, Any] = layer.metadata.setdefault(METADATA, {})
        told = {"step": step, "pixels": pixels} | ({} if only is None else {"class": only})
        entry.setdefault(STEPS, []).append(told)
        if results is not None and results.edits is not None and results.edits not in _followed:
            _followed.add(results.edits)
            results.edits.travelled.connect(lambda step, back: _follow(entry, step, back))
    return pixels


def _follow(entry: dict[str, Any], step: Step, back: bool) -> None:
    """A step that was taken back is told no more, until it is brought again."""
    told, away = entry.setdefault(STEPS, []), entry.setdefault(BACK, [])
    source, target = (told, away) if back else (away, told)
    mine = [one for one in source if TITLES[one["step"]] == step.name and step.kind == "process"]
    if mine:
        source.remove(mine[-1])
        target.append(mine[-1])


def steps_of(layer: Labels) -> list[dict[str, Any]]:
    """The steps that were applied to a layer, the first one first, with the pixels they changed
    (those that were taken back left out)."""
    entry = layer.metadata.get(METADATA)
    return list(entry.get(STEPS, ())) if isinstance(entry, dict) else []
