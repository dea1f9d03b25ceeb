"""What the metadata of an OME-Zarr group (0.1 to 0.5) says: axes, levels, places, channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.units import millimetres

OLD_AXES = ("t", "c", "z", "y", "x")
PRIMARY = ("FF0000", "00FF00", "0000FF")


@dataclass(frozen=True)
class Axis:
    """Name, kind (``"space"``, ``"time"``, ``"channel"``) and unit (empty: unstated)."""

    name: str
    kind: str
    unit: str = ""


@dataclass(frozen=True)
class Level:
    """Path of an array in the group; ``scale`` and ``translation`` per axis, in the axes' units."""

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True)
class Multiscale:
    """An image of several levels, the finest first. ``version`` as stated, ``spaced``: whether
    any place was given. ``channels``: names; ``colours``: RRGGBB of each."""

    axes: tuple[Axis, ...]
    levels: tuple[Level, ...]
    version: str
    spaced: bool
    channels: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()

    def index(self, name: str) -> int | None:
        """Where an axis of that name or kind stands."""
        for i, axis in enumerate(self.axes):
            if name in (axis.name, axis.kind):
                return i
        return None

    @property
    def space(self) -> tuple[int, ...]:
        """Axes of space in the order z, y, x (or y, x)."""
        return tuple(i for n in "zyx" for i, a in enumerate(self.axes) if a.name == n)


def ome_of(attrs: dict[str, Any]) -> dict[str, Any]:
    """The metadata of 0.5 (under ``ome``) or of earlier versions."""
    inner = attrs.get("ome")
    return inner if isinstance(inner, dict) else attrs


def multiscale_of(path: Path, attrs: dict[str, Any]) -> Multiscale:
    """Parse the first multiscale image. Raises ``InputError`` for what is not understood."""
    ome = ome_of(attrs)
    try:
        first = ome["multiscales"][0]
        version = str(first.get("version") or ome.get("version") or "?")
        axes = _axes(first.get("axes"), first)
        shared = _transform(first.get("coordinateTransformations"), len(axes))
        levels = [_level(d, shared, len(axes)) for d in first["datasets"]]
        told = [first, *first["datasets"]]
        spaced = any(d.get("coordinateTransformations") for d in told)
        channels = (ome.get("omero") or {}).get("channels") or []
        names = tuple(str(c.get("label") or f"channel {i}") for i, c in enumerate(channels))
        colours = tuple(str(c.get("color", "")).upper() for c in channels)
        found = Multiscale(axes, tuple(levels), version, spaced, names, colours)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the OME-Zarr metadata of {path.name} is damaged or of an unknown kind ({error!r}); "
            "write the image again"
        ) from error
    if not found.levels or len(found.space) not in (2, 3):
        raise InputError(
            f"{path.name} has the axes {''.join(a.name for a in found.axes)}; expected y and x, "
            "and at most z, c and t besides"
        )
    return found


def _axes(given: Any, first: dict[str, Any]) -> tuple[Axis, ...]:
    kinds = {"t": "time", "c": "channel"}
    if given is None:
        given = OLD_AXES[-5:]
    axes = []
    for item in given:
        if isinstance(item, str):
            axes.append(Axis(item, kinds.get(item, "space")))
        else:
            name = str(item["name"]).lower()
            kind = str(item.get("type") or kinds.get(name, "space"))
            axes.append(Axis(name, kind, str(item.get("unit") or "")))
    return tuple(axes)


def _level(dataset: dict[str, Any], shared: Any, count: int) -> Level:
    scale, shift = _transform(dataset.get("coordinateTransformations"), count)
    outer, offset = shared
    return Level(
        str(dataset["path"]), tuple(map(float, outer * scale)), tuple(outer * shift + offset)
    )


def _transform(given: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and translation of a list of transformations, applied in their order."""
    scale, shift = np.ones(count), np.zeros(count)
    for item in given or ():
        kind = item["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in item:
            raise ValueError(f"transformation {kind!r}")
        values = np.array(item[kind], float)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise ValueError(f"{kind} {item[kind]}")
        if kind == "scale":
            scale, shift = scale * values, shift * values
        else:
            shift = shift + values
    if (scale <= 0).any():
        raise ValueError(f"scale {scale.tolist()}")
    return scale, shift


def unit_factors(meta: Multiscale) -> tuple[list[float], bool]:
    """Millimetres per unit of every axis of space, and whether all units are stated lengths.

    Without a unit it is micrometres, as in the other formats of microscopy.
    """
    told = [millimetres(meta.axes[i].unit) for i in meta.space]
    return [1e-3 if f is None else f for f in told], None not in told
