"""Requests about a model's inside, with their events: maps of every level, layers compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.control.volumes import Forecast as Forecast
from napari_attnseg.control.volumes import Forecasted as Forecasted
from napari_attnseg.settings import Tuning


@dataclass(frozen=True)
class LevelMaps(Request):
    """Light, newest wins: the attention of every place of the model on slice ``z``.

    With ``y >= 0`` also what pixel (z, y, x) attends to at every place that has rows, and what
    the ``others`` (y, x) do. Maps named in ``stacks`` (place, name) come with all their channels.
    Written into ``out``, one float32 ``.npy`` in view orientation each. Event: ``LevelMapsDone``.
    Of a 3D model the maps are volumes over the window that answers for the pixel or, without one,
    for ``near`` (y, x; empty: the middle of the slice).
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    y: int = -1
    x: int = -1
    out: str = ""
    tile: int = 0
    others: tuple[tuple[int, int], ...] = ()
    stacks: tuple[tuple[str, str], ...] = ()
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class LevelMapFile:
    """One map: ``path`` of its values; everything else as in ``engine.levels.LevelMap``. Cell
    (i, j) of a picture has its centre at pixel ``offset + scale*(i, j)``; ``depth``: scale and
    offset along the slices of a map that is a volume, empty of one that lies on a slice."""

    path: str = ""
    place: str = ""
    name: str = ""
    title: str = ""
    kind: str = "spatial"
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    level: str = ""
    labels: tuple[str, ...] = ()
    axis: int = 0
    channels: int = 0
    query: int = 0
    depth: tuple[float, ...] = ()


@dataclass(frozen=True)
class LevelMapsDone(Event):
    """The ``maps`` of slice ``z``, finest grid first; rows are those of pixel (y, x). ``about``:
    of a 3D model, which part of the scan they are of, in words."""

    z: int = 0
    y: int = -1
    x: int = -1
    maps: tuple[LevelMapFile, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Weigh(Request):
    """What a model with these ``options`` costs on an image of ``size`` (H, W): ``Weighed``."""

    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    in_channels: int = 1
    classes: int = 1
    size: tuple[int, int] = (128, 128)


@dataclass(frozen=True)
class Weighed(Event):
    """``data``: see ``engine.describe.weigh``."""

    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cka(Request):
    """Long: how alike the layers of two checkpoints are (``model_b`` empty: inside the first).

    Over a folder of ``images``, or over one ``image``: its slices, or crops of a single one.
    ``cka.json`` and ``cka.png`` are written into ``out``. Events: ``StepDone`` per batch,
    ``CkaDone``, ``Finished``.
    """

    model_a: str = ""
    model_b: str = ""
    images: str = ""
    image: ImageRef | None = None
    out: str = ""
    size: int = 0
    batch: int = 16
    limit: int = 64
    device: str = "auto"


@dataclass(frozen=True)
class StepDone(Event):
    """Step ``done`` of ``total`` of a long question ended."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class CkaDone(Event):
    """The table (JSON: ``layers_a``, ``layers_b``, ``values``) and its picture are written."""

    table: str = ""
    picture: str = ""


def map_files(data: list[dict[str, object]]) -> tuple[LevelMapFile, ...]:
    """``LevelMapsDone.maps`` as they come over the wire."""
    plain = [{k: tuple(v) if isinstance(v, list) else v for k, v in d.items()} for d in data]
    return tuple(LevelMapFile(**values) for values in plain)  # type: ignore[arg-type]
