"""From volumes to napari layers and back, without ever moving a pixel.

World of a volume: millimetres in the order (S, P, L) of the view axes (Z, Y, X), so that with
napari's default camera an axial slice has anterior at the top and the patient's right on the
left. A 2D image is a layer of two axes and, for the engine, a volume of one slice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.io.volume import Volume

METADATA = "attnseg"
"""Key of our entry in ``layer.metadata``: ``{"volume": Volume}`` or ``{"result_of": name}``."""

LayerData = tuple[Any, dict[str, Any], str]
LARGE_PLANE = 2048
"""Rows or columns from which coarser levels are given to napari."""
GLANCE = 4 << 20
"""Pixels of the coarsest level that are read for the contrast."""
_CT_WINDOW_HU = (-160.0, 240.0)


class LayerSource(NamedTuple):
    """What the engine needs of an image layer.

    ``array`` (Z, Y, X) or (Z, Y, X, 3); ``flips``: view axes to reverse to run S+, P+, L+;
    ``spacing`` in mm (or in what the layer is scaled in, if that is no length) per view axis,
    empty when unknown; ``volume`` if the layer has one.
    """

    array: npt.NDArray[Any]
    rgb: bool
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, ...]
    volume: Volume | None


def is_flat(volume: Volume) -> bool:
    """Whether a volume came from a 2D picture, and so becomes a layer of two axes."""
    return volume.geometry is None and volume.data.ndim - int(volume.rgb) == 2


def volume_to_layer_data(volume: Volume, name: str | None = None) -> LayerData:
    """The ``(data, settings, "image")`` of a volume, with its display transform; ``"labels"`` of
    one that says that it holds ids."""
    data = volume.view[0] if is_flat(volume) else volume.view
    settings: dict[str, Any] = {
        "name": name or layer_name(volume.path),
        "metadata": {METADATA: {"volume": volume}},
        **display_transform(volume),
    }
    if volume.labels:
        return np.asarray(data), settings, "labels"
    if volume.rgb:
        settings["rgb"] = True
    else:
        settings["contrast_limits"] = contrast_limits(_glance(volume, data))
        settings["colormap"] = "gray"
    levels = _levels(volume)
    if levels:
        settings["multiscale"] = True
        return [data, *levels], settings, "image"
    return data, settings, "image"


def _levels(volume: Volume) -> list[Any]:
    """Coarser copies for a plane too large to be drawn whole; of smaller ones none is needed."""
    if max(volume.shape[1:]) <= LARGE_PLANE:
        return []
    return [level[0] if is_flat(volume) else level for level in volume.levels]


def _glance(volume: Volume, data: Any) -> Any:
    """Few pixels of a volume that is read lazily: its coarsest level or its middle slice."""
    if not volume.lazy:
        return data
    if volume.levels and volume.levels[-1].size <= GLANCE:
        return np.asarray(volume.levels[-1])
    middle = data if data.ndim == 2 else data[len(data) // 2]
    y, x = (max(0, n // 2 - 512) for n in middle.shape)
    return np.asarray(middle[y : y + 1024, x : x + 1024])


def display_transform(volume: Volume) -> dict[str, Any]:
    """``scale``, ``translate``, ``units`` and ``axis_labels`` for a layer of this volume."""
    if not volume.spacing_mm:
        return {}
    n = 2 if is_flat(volume) else 3
    return {
        "scale": tuple(volume.display_scale)[-n:],
        "translate": tuple(volume.display_translate)[-n:],
        "units": ("mm",) * n,
        "axis_labels": ("z", "y", "x")[-n:],
    }


def layer_name(path: Path | str | None) -> str:
    """A file's name without its (double) suffix."""
    if path is None:
        return "image"
    name = Path(path).name
    if Path(path).is_dir() and ".zarr" not in name:
        return name
    for suffix in (".nii.gz", ".ome.zarr", Path(name).suffix):
        if suffix and name.lower().endswith(suffix.lower()):
            return name[: -len(suffix)]
    return name


def contrast_limits(data: npt.NDArray[Any]) -> tuple[float, float]:
    """A window in which something is to be seen, from a thinned copy of the pixels."""
    step = tuple(slice(None, None, max(1, n // 96)) for n in data.shape)
    sample = np.asarray(data[step], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    if np.issubdtype(data.dtype, np.signedinteger) and sample.min() <= -500:
        return _CT_WINDOW_HU
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def layer_volume(layer: Layer) -> Volume | None:
    """The volume a layer was made from, or what :mod:`viewer.space` finds for a layer not ours."""
    from napari_attnseg.viewer.space import foreign_volume

    entry = layer.metadata.get(METADATA)
    if isinstance(entry, dict) and entry.get("volume") is not None:
        return entry["volume"]
    return foreign_volume(layer)


def layer_source(layer: Layer) -> LayerSource:
    """What the engine needs of any image layer: ours, another plugin's, a plain or dask array.

    Raises :class:`InputError` when the layer has more than three spatial axes or is empty.
    """
    rgb = bool(getattr(layer, "rgb", False))
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    axes = data.ndim - int(rgb)
    if axes not in (2, 3):
        raise InputError(
            f"layer {layer.name!r} has {axes} axes, expected 2 (an image) or 3 (a volume); "
            "take one time point or channel of it into a layer of its own "
            "(right-click the layer, Split Stack)."
        )
    # lazy pixels are read later, mapped ones by the engine itself
    array = data if hasattr(data, "dask") or isinstance(data, np.memmap) else np.asarray(data)
    if not array.size:
        raise InputError(f"layer {layer.name!r} has no pixels {array.shape}; choose another.")
    array = array[None] if axes == 2 else array
    entry = layer.metadata.get(METADATA)
    volume = entry.get("volume") if isinstance(entry, dict) else None
    spacing = volume.spacing_mm if volume is not None else _spacing(layer)
    return LayerSource(
        array[..., :3] if rgb else array, rgb, _flips(layer, volume), spacing, volume
    )


def _spacing(layer: Layer) -> tuple[float, ...]:
    """In mm where the layer has a unit of length, else in whatever its scale is in. A scale that
    nobody set says nothing about the size of a pixel."""
    from napari_attnseg.viewer.space import linear_of, millimetres_of

    edges = linear_of(layer) * millimetres_of(layer)[:, None]
    scale = tuple(float(s) for s in np.linalg.norm(edges, axis=0))
    if all(s == 1 for s in scale):
        return ()
    return scale if len(scale) == 3 else (1.0, *scale)


def _flips(layer: Layer, volume: Volume | None) -> tuple[bool, bool, bool]:
    """A negative step means that the axis runs against S+, P+, L+ (2D images never flip)."""
    if layer.ndim != 3:
        return (False, False, False)
    if volume is not None:
        return volume.flips
    from napari_attnseg.viewer.space import linear_of

    z, y, x = (bool(s < 0) for s in np.diag(linear_of(layer)))
    return (z, y, x)


def transform_of(layer: Layer) -> dict[str, Any]:
    """Every part of a layer's transform, to be given to an overlay of the same pixels."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def map_transform(
    layer: Layer,
    scale: tuple[float, float],
    offset: tuple[float, float],
    depth: tuple[float, float] = (1.0, 0.0),
) -> dict[str, Any]:
    """The transform of a coarse map over ``layer``.

    Cell (i, j) of the map is centred on the layer's pixel ``offset + scale * (i, j)`` (rows and
    columns; napari's pixel centres are whole numbers). ``depth``: scale and offset along slices.
    """
    factor, first = np.ones(layer.ndim), np.zeros(layer.ndim)
    factor[-2:], first[-2:] = scale, offset
    if layer.ndim == 3:
        factor[0], first[0] = depth
    world = np.asarray(layer.data_to_world(first))
    return transform_of(layer) | {
        "scale": np.asarray(layer.scale) * factor,
        "translate": layer.affine.inverse(world),
    }
