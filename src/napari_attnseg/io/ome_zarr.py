"""Read OME-Zarr (0.1 to 0.5, zarr 2 and 3) without reading its pixels.

The world of OME-Zarr has axes z, y, x and no anatomy; they are taken for the (S, P, L) of the
view, which is said. Levels become lazily read dask arrays; prediction uses the finest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.lazy import lazy_array
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.io.ome_zarr_meta import (
    PRIMARY,
    Multiscale,
    multiscale_of,
    ome_of,
    unit_factors,
)
from napari_attnseg.io.volume import Volume

MARKS = (".zgroup", ".zattrs", ".zarray", "zarr.json")
ALIGNED = 2
ANATOMY = "OME-Zarr names no directions of the body: z is read as up, y as back, x as left"
NO_UNIT = "no unit of length is stated: micrometres"


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


def read_ome_zarr(path: str | Path, volume: int | None = None) -> Volume:
    """An image of an OME-Zarr group as a volume whose ``data`` is a lazy dask array.

    ``volume`` chooses time point and channel (time x channels + channel); without it an image of
    several raises ``ManyVolumes``. A zarr array without OME metadata has no space. Raises
    ``InputError`` for damaged stores, plates, and axes that are not understood.
    """
    path = Path(path)
    node = _opened(path)
    if not hasattr(node, "members"):
        return _bare(path, node, volume)
    attrs = dict(node.attrs)
    if "multiscales" not in ome_of(attrs):
        return _elsewhere(path, node, attrs, volume)
    meta = multiscale_of(path, attrs)
    arrays = [_array(path, node, level.path) for level in meta.levels]
    _check_axes(path, meta, arrays[0])
    rgb = _is_colour(meta, arrays[0])
    picks, notes, part = _picks(path, meta, arrays[0], rgb, volume)
    order = (*meta.space, *([meta.index("channel")] if rgb else []))
    views = [lazy_array(a, picks, order) for a in arrays]  # type: ignore[arg-type]
    made = _volume(path, meta, views, rgb, notes, part)
    ids = "image-label" in ome_of(attrs) and made.data.dtype.kind in "iu"
    return replace(made, labels=True) if ids else made


def zarr_size(path: str | Path) -> tuple[int, int, int]:
    """(Z, Y, X) from the metadata alone, whichever time point and channel is taken."""
    try:
        return read_ome_zarr(path).shape
    except ManyVolumes:
        return read_ome_zarr(path, 0).shape


def _opened(path: Path) -> Any:
    import zarr

    try:
        return zarr.open(str(path), mode="r")
    except Exception as error:
        raise InputError(
            f"{path.name} is no readable zarr store ({_first_line(error)}); copy or write it again"
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".")[:100] if text else type(error).__name__


def _array(path: Path, node: Any, name: str) -> Any:
    try:
        array = node[name]
    except Exception as error:
        raise InputError(
            f"{path.name} names a level {name} that is missing or damaged "
            f"({_first_line(error)}); copy or write it again"
        ) from error
    if not hasattr(array, "chunks") or np.dtype(array.dtype).kind not in "biuf":
        raise InputError(f"level {name} of {path.name} holds no real numbers; write it again")
    if 0 in array.shape:
        raise InputError(f"{path.name} has no pixels (its size is {tuple(array.shape)})")
    return array


def _check_axes(path: Path, meta: Multiscale, array: Any) -> None:
    if len(meta.axes) != array.ndim:
        raise InputError(
            f"{path.name} names {len(meta.axes)} axes but its array has {array.ndim}; "
            "write the image again"
        )
    known = {*meta.space, meta.index("time"), meta.index("channel")}
    for i, axis in enumerate(meta.axes):
        if i not in known and array.shape[i] > 1:
            raise InputError(
                f"{path.name} has {array.shape[i]} steps along an axis {axis.name!r}; expected "
                "t, c, z, y and x, save one step of it"
            )


def _is_colour(meta: Multiscale, array: Any) -> bool:
    at = meta.index("channel")
    three = at is not None and array.shape[at] == 3 and np.dtype(array.dtype) == np.uint8
    return three and meta.colours == PRIMARY


def _picks(
    path: Path, meta: Multiscale, array: Any, rgb: bool, volume: int | None
) -> tuple[dict[int, int], list[str], int | None]:
    """Fixed places along the axes that are not space, and words about the choice."""
    time, channel = meta.index("time"), meta.index("channel")
    times = 1 if time is None else int(array.shape[time])
    channels = 1 if channel is None or rgb else int(array.shape[channel])
    names = _names(meta, times, channels)
    if volume is None and len(names) > 1:
        listed = "; ".join(f"{i}: {name}" for i, name in enumerate(names[:12]))
        more = " ..." if len(names) > 12 else ""
        raise ManyVolumes(
            f"{path.name} holds {len(names)} volumes; choose one with --volume K: {listed}{more}",
            len(names),
            tuple(names),
        )
    if volume is not None and not 0 <= volume < len(names):
        raise InputError(
            f"got volume {volume}, but {path.name} has {len(names)}; expected 0 to {len(names) - 1}"
        )
    chosen = volume or 0
    picks = {i: 0 for i in range(len(meta.axes)) if i not in meta.space}
    if time is not None:
        picks[time] = chosen // channels
    if channel is not None:
        picks[channel] = chosen % channels
    if rgb:
        del picks[channel]  # type: ignore[arg-type]
    many = len(names) > 1
    return picks, [names[chosen]] if many else [], chosen if many else None


def _names(meta: Multiscale, times: int, channels: int) -> list[str]:
    told = list(meta.channels) + [f"channel {c}" for c in range(len(meta.channels), channels)]
    words = [
        ([f"time {t}"] if times > 1 else []) + ([told[c]] if channels > 1 else [])
        for t in range(times)
        for c in range(channels)
    ]
    return [", ".join(w) for w in words]


def _volume(
    path: Path, meta: Multiscale, views: list[Any], rgb: bool, notes: list[str], part: int | None
) -> Volume:
    factors, stated = unit_factors(meta)
    level = meta.levels[0]
    size = [level.scale[i] * f for i, f in zip(meta.space, factors, strict=True)]
    start = [level.translation[i] * f for i, f in zip(meta.space, factors, strict=True)]
    flat = len(size) == 2 or views[0].shape[0] == 1
    known = meta.spaced and (stated or any(level.scale[i] != 1 for i in meta.space))
    kept = [v for v in views[1:] if v.ndim == views[0].ndim]
    words = [] if stated or not known else [NO_UNIT]
    common: dict[str, Any] = {"rgb": rgb, "path": path, "kind": "zarr", "part": part}
    note = "; ".join(notes)
    if flat:
        drop = len(size) == 3
        data = views[0][0] if drop else views[0]
        levels = tuple(v if drop else v[None] for v in kept)
        pixel = (1.0, size[-2], size[-1]) if known else None
        return Volume(
            data, pixel_mm=pixel, note=note, assumed="; ".join(words), levels=levels, **common
        )
    if not known:
        return Volume(views[0], note=note, levels=tuple(kept), **common)
    affine = np.diag([-size[2], -size[1], size[0], 1.0])
    affine[:3, 3] = -start[2], -start[1], start[0]
    data = views[0].transpose(2, 1, 0, *range(3, views[0].ndim))
    geometry = Geometry(affine, data.shape[:3], sform_code=ALIGNED, axes=(2, 1, 0))
    assumed = "; ".join([ANATOMY, *words])
    return Volume(data, geometry, note=note, assumed=assumed, levels=tuple(kept), **common)


def _bare(path: Path, array: Any, volume: int | None) -> Volume:
    """A zarr array that nobody described: (Y, X) or (Z, Y, X)."""
    if volume:
        raise InputError(f"got volume {volume}, but {path.name} is one plain array")
    if array.ndim not in (2, 3) or 0 in array.shape or np.dtype(array.dtype).kind not in "biuf":
        raise InputError(
            f"{path.name} is a zarr array of shape {tuple(array.shape)} and type {array.dtype} "
            "without OME metadata; expected numbers with the axes (Y, X) or (Z, Y, X)"
        )
    data = lazy_array(array, {}, tuple(range(array.ndim)))
    return Volume(data, path=path, kind="zarr", note="a plain zarr array: nothing says its space")


def _elsewhere(path: Path, node: Any, attrs: dict[str, Any], volume: int | None) -> Volume:
    """Groups that hold images instead of being one: follow a single one, name several."""
    ome = ome_of(attrs)
    if "plate" in ome:
        paths = [w.get("path", "") for w in ome["plate"].get("wells", [])][:4]
        example = f"{path.name}/{paths[0]}/0" if paths else f"{path.name}/A/1/0"
        raise InputError(f"{path.name} is a plate; open one field of a well, as in {example}")
    inner = sorted(name for name, member in node.groups() if name not in ("OME", "labels"))
    images = [n for n in inner if "multiscales" in ome_of(dict(node[n].attrs))]
    if len(images) == 1:
        return read_ome_zarr(path / images[0], volume)
    if images:
        some = ", ".join(f"{path.name}/{n}" for n in images[:6])
        raise InputError(f"{path.name} holds {len(images)} images; open one of {some}")
    raise InputError(
        f"{path.name} is a zarr group without OME metadata (multiscales); expected an OME-Zarr "
        "image, or a plain zarr array"
    )
