"""OME-Zarr labels: a store of its own whose scale and translation are those of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import Job
from napari_attnseg.io.ome_zarr_meta import Multiscale, multiscale_of, ome_of
from napari_attnseg.io.read_back import differs, reading_back
from napari_attnseg.io.volume import Volume
from napari_attnseg.io.zarr_labels import store_of

VERSION = "0.4"
"""Written unless the image itself is of 0.5: every program of OME-Zarr reads it."""
KEY = "attnseg"
SLAB, TILE = 16, 256
LARGE = 1024
AXES = ("z", "y", "x")


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """Everything decided before a byte is written."""
    place = _Place.of(array_ZYX, source)
    group = _group_metadata(place, json.loads(text), array_ZYX, source)

    def write(path: Path) -> None:
        _write(path, place, _pointing(group) if store_of(path) else group)

    def verify(path: Path) -> bool:
        _verify(path, place)
        return True

    return Job(place.data.shape, write, verify, place.words)


class _Place:
    """Pixels in the order of their axes (z, y, x or y, x), and where they lie."""

    def __init__(
        self,
        data: np.ndarray,
        scale: list[float],
        shift: list[float],
        units: list[str],
        version: str,
        words: str,
    ) -> None:
        self.data, self.scale, self.shift = data, scale, shift
        self.units, self.version, self.words = units, version, words

    @classmethod
    def of(cls, array: np.ndarray, source: Volume | None) -> _Place:
        meta = _source_metadata(source)
        if meta is not None:
            return cls._as_source(array, *meta)
        if source is None or not source.spacing_mm:
            flat = array[0] if source is None or source.data.ndim < 3 else array
            data = flat if len(array) == 1 else array
            n = data.ndim
            return cls(data, [1.0] * n, [0.0] * n, [""] * n, VERSION, "in pixels")
        if source.geometry is None:
            data = array[0] if len(array) == 1 else array
            size = list(source.spacing_mm[-data.ndim :])
            return cls(data, size, [0.0] * len(size), ["millimeter"] * len(size), VERSION, "")
        return cls._along_axes(array, source)

    @classmethod
    def _as_source(cls, array: np.ndarray, meta: Multiscale, version: str) -> _Place:
        level, space = meta.levels[0], meta.space
        data = array if len(space) == 3 else array[0]
        return cls(
            data,
            [level.scale[i] for i in space],
            [level.translation[i] for i in space],
            [meta.axes[i].unit for i in space],
            version,
            "scale and translation of the image",
        )

    @classmethod
    def _along_axes(cls, array: np.ndarray, source: Volume) -> _Place:
        """OME-Zarr has positive steps along z, y, x and no rotation."""
        space = source.geometry
        assert space is not None
        if space.is_oblique:
            raise ExportError(
                f"the image is turned by {space.tilt_degrees:.1f} degrees, which OME-Zarr cannot "
                "say; export .nii.gz or .nrrd"
            )
        turned = tuple(axis for axis in range(3) if space.flips[axis])
        start = [
            shift + (n - 1) * step if step < 0 else shift
            for n, step, shift in zip(
                array.shape, space.display_scale, space.display_translate, strict=True
            )
        ]
        data = np.flip(array, turned) if turned else array
        words = "z up, y back, x left, as the scan lies" + (
            f" (turned round along {', '.join(AXES[a] for a in turned)})" if turned else ""
        )
        units = ["millimeter"] * 3
        return cls(data, list(space.spacing_mm), start, units, VERSION, words)


def _source_metadata(source: Volume | None) -> tuple[Multiscale, str] | None:
    """What an OME-Zarr image says of itself, read again from its folder."""
    if source is None or source.kind != "zarr" or source.path is None:
        return None
    import zarr

    try:
        attrs: dict[str, Any] = dict(zarr.open_group(str(source.path), mode="r").attrs)
    except Exception:
        return None  # a plain array, or gone since
    if "multiscales" not in ome_of(attrs):
        return None
    return multiscale_of(source.path, attrs), "0.5" if "ome" in attrs else VERSION


def _group_metadata(
    place: _Place, comment: dict[str, Any], array: np.ndarray, source: Volume | None
) -> dict[str, Any]:
    names = AXES[-place.data.ndim :]
    axes = [
        {"name": n, "type": "space", **({"unit": u} if u else {})}
        for n, u in zip(names, place.units, strict=True)
    ]
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": [s * f for s, f in zip(place.scale, step, strict=True)]},
                {"type": "translation", "translation": place.shift},
            ],
        }
        for k, step in enumerate(_steps(place.data))
    ]
    image: dict[str, Any] = {"name": "labels", "axes": axes, "datasets": datasets}
    told: dict[str, Any] = {"multiscales": [image]}
    if array.dtype.kind == "u":
        told["image-label"] = _label_metadata(comment, place.version, source)
    if place.version == "0.5":
        return {"ome": {"version": "0.5", **told}, KEY: comment}
    image["version"] = VERSION
    return {**told, KEY: comment}


def _pointing(group: dict[str, Any]) -> dict[str, Any]:
    """The metadata of labels inside the store of their image, which they name."""
    told: dict[str, Any] = json.loads(json.dumps(group))
    ome_of(told)["image-label"]["source"] = {"image": "../../"}
    return told


def _label_metadata(comment: dict[str, Any], version: str, source: Volume | None) -> dict[str, Any]:
    label: dict[str, Any] = {"version": version}
    colors = comment.get("colors", {})
    if colors:
        label["colors"] = [
            {"label-value": int(i), "rgba": [*bytes.fromhex(c.lstrip("#")[:6]), 255]}
            for i, c in colors.items()
            if int(i)
        ]
    names = comment.get("classes", {})
    if names:
        label["properties"] = [{"label-value": int(i), "class": n} for i, n in names.items()]
    return label


def _steps(data: np.ndarray) -> list[list[int]]:
    """Thinning per level: every second row and column until a plane is small."""
    size, step, found = max(data.shape[-2:]), 1, []
    while True:
        found.append([1] * (data.ndim - 2) + [step, step])
        if size // step <= LARGE:
            return found
        step *= 2


def _write(path: Path, place: _Place, attributes: dict[str, Any]) -> None:
    import zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=3 if place.version == "0.5" else 2)
    for k, step in enumerate(_steps(place.data)):
        small = place.data[tuple(slice(None, None, s) for s in step)]
        _fill(group, str(k), small, place.version)
    group.attrs.update(attributes)


def _fill(group: Any, name: str, data: np.ndarray, version: str) -> None:
    from numcodecs import Blosc

    wanted = (SLAB, TILE, TILE)[-data.ndim :]
    chunks = tuple(min(n, c) for n, c in zip(data.shape, wanted, strict=True))
    options: dict[str, Any] = {}
    if version != "0.5":  # what every reader of zarr 2 knows, with chunks in nested folders
        options["compressors"] = Blosc("zstd", 5)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    array = group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=chunks, **options)
    if data.ndim == 2:
        array[:] = data
        return
    for z in range(0, len(data), SLAB):  # slab by slab: no second copy of the volume
        array[z : z + SLAB] = data[z : z + SLAB]


def _verify(path: Path, place: _Place) -> None:
    """Read the plain JSON of the metadata and every pixel again."""
    import zarr

    with reading_back("labels"):
        raw = path / ("zarr.json" if place.version == "0.5" else ".zattrs")
        attrs = json.loads(raw.read_text())
        meta = multiscale_of(path, attrs.get("attributes", attrs))
        array: Any = zarr.open_array(str(path / "0"), mode="r")
        slabs = range(0, len(place.data), SLAB if place.data.ndim == 3 else len(place.data))
        step = SLAB if place.data.ndim == 3 else len(place.data)
        equal = array.shape == place.data.shape and all(
            np.array_equal(array[z : z + step], place.data[z : z + step]) for z in slabs
        )
    if not equal or array.dtype != place.data.dtype:
        raise differs("pixels")
    level = meta.levels[0]
    if list(level.scale) != place.scale or list(level.translation) != place.shift:
        raise differs("places")


def comment_of(path: Path) -> dict[str, Any]:
    """Classes, colours and provenance of labels that were written here; empty otherwise."""
    import zarr

    attrs: dict[str, Any] = dict(zarr.open_group(str(path), mode="r").attrs)
    return dict(attrs.get(KEY, {}))
