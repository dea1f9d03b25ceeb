"""The attention of every place of a model, each map at its own resolution.

A place is where an attention module stands (``SegmentationModel.places``); what it shows is
recorded over one full forward. Legend: h, w = the map's own grid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from napari_attnseg.attention.recording import Record, recording
from napari_attnseg.engine.predict import MapScale
from napari_attnseg.models.base import Place, SegmentationModel

FLAT: tuple[str, ...] = ("spatial", "signed", "row", "cross")
"""Kinds of records that are a picture (h, w)."""
STACKS: tuple[str, ...] = ("branch", "region", "propagation")
"""Kinds of records that may be several pictures (K, h, w) of which one wins at every position."""
BESIDE = MapScale((1.0, 1.0), (0.0, 0.0), (0, 0))
"""Where a figure lies that is not over the image."""
STACK_NUMBERS = 32_000_000
"""A stack larger than this (128 MB) is cut: its first pictures are kept."""
LEVEL = r"level_\d+"
"""Names of the tunables that scale what attention adds at a place."""


@dataclass(frozen=True, eq=False)
class LevelMap:
    """One map in view orientation: ``values`` float32, placed by ``scale`` if it is over the image.
    Of a 3D model a picture (h, w) is a volume (d, h, w), placed by ``depth`` along the slices.

    ``place``: the module's name inside the model; ``title``: the same for people ("skip 1, 1/2
    resolution"); ``level``: the tunable that scales it ("level_1"), or empty. ``name``: the
    map's own. ``labels``: names of the K entries, where they have any. ``kind``:

    - one picture (h, w): ``"spatial"`` (not negative), ``"signed"`` (around 0), ``"row"`` (what
      the asked pixel attends to). Where it has ``channels`` or heads (else 0) it is their mean,
      or, when these were asked for, all of them (channels, h, w)
    - pictures (K, h, w): ``"branch"``, ``"region"``, ``"propagation"``
    - a figure beside the image: ``"channel"`` (C,), ``"kernel"`` (n,), ``"branch"`` (K,) or
      (K, C), ``"matrix"`` (m, n), ``"axes"`` (C, n) along ``axis`` (0 rows, 1 columns; of volumes
      slices first)

    ``query``: the number of the asked pixel that a row belongs to. ``depth``: distance between
    the cells along the slices and the centre of the first, in slices; ``None`` for a slice.
    """

    place: str
    name: str
    title: str
    kind: str
    values: np.ndarray
    scale: MapScale
    level: str = ""
    labels: tuple[str, ...] = ()
    axis: int = 0
    channels: int = 0
    query: int = 0
    depth: tuple[float, float] | None = None


Key = tuple[str, str]
"""Place (the module's name inside the model) and name of a map."""


def record(
    model: SegmentationModel,
    x_BCHW: torch.Tensor,
    values: Mapping[str, Any],
    query: tuple[float, ...] | None = None,
    others: Sequence[tuple[float, ...]] = (),
) -> list[Record]:
    """The records of one forward, ordered by the model's places (unknown ones last).

    ``values``: those that ``gate`` takes. ``query``, ``others``: see ``recording``. Of a module
    that ran several times the last map of each name and question counts; the steps of a
    propagation are told apart.
    """
    with recording(model, query, others) as tape:
        model(x_BCHW, **values)
    last = {(r.place, r.name, r.query): r for r in map(_named, tape.records)}
    places = model.places
    return sorted(last.values(), key=lambda r: rank(r.place, places))


def _named(found: Record) -> Record:
    """A cross is the row of the asked position; a step of a propagation has its number in its
    name."""
    name = f"{found.name} {found.step}" if found.step else found.name
    return replace(found, name=name, kind="row" if found.kind == "cross" else found.kind)


def channels_of(found: Record) -> int:
    """How many pictures a map of one picture has in truth; 0 where it is a single one."""
    extra = found.values.shape[1 : found.values.ndim - found.geometry.ndim]
    return extra.numel() if found.kind in FLAT and extra.numel() > 1 else 0


def pictured(found: Record, stacks: Collection[Key] = ()) -> torch.Tensor:
    """The values of the first item, float32: of channels or heads their mean (h, w), or all of
    them (channels, h, w) where ``stacks`` names the map (as many as :data:`STACK_NUMBERS` allow).
    """
    if found.kind not in FLAT:
        return found.values[0].float()
    grid = found.values.shape[found.values.ndim - found.geometry.ndim :]
    if not channels_of(found) or (found.place, found.name) not in stacks:
        return found.flat[0].float()
    most = max(1, STACK_NUMBERS // max(grid.numel(), 1))
    return found.values[0].reshape(-1, *grid)[:most].float()


def over_image(found: Record) -> bool:
    """Whether the record is a picture or several, not a figure beside the image."""
    stacked = found.kind in STACKS and found.values.ndim == 2 + found.geometry.ndim
    return found.kind in FLAT or stacked


def place_of(module: str, places: Iterable[Place]) -> Place | None:
    """The place a module stands in: its own, or that of a module around it."""
    around = [p for p in places if module == p.module or module.startswith(f"{p.module}.")]
    return max(around, key=lambda p: len(p.module), default=None)


def level_of(place: Place, model: SegmentationModel) -> str:
    """The tunable that scales what attention adds at ``place``: the place says it, or both lists
    run finest first."""
    if place.level:
        return place.level
    names = [t.name for t in model.tunables if re.fullmatch(LEVEL, t.name)]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    places = model.places
    return names[places.index(place)] if len(names) == len(places) else ""


def rank(module: str, places: tuple[Place, ...]) -> int:
    """Where a module comes in the order of the places (unknown ones last)."""
    found = place_of(module, places)
    return len(places) if found is None else places.index(found)
