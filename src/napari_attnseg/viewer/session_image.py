"""An image layer as plain data, and the same layer again: from its file, or from kept pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.viewer.image_changes import known_of, moved
from napari_attnseg.viewer.layers import METADATA, volume_to_layer_data

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import ViewerModel

KEPT_BYTES = 1 << 30
"""Pixels without a file are kept with the session up to this size."""


class ImageGone(InputError):
    """The file behind an image is missing, or it is another image now."""


def image_facts(layer: Layer) -> dict[str, Any]:
    """Name, file, shape, transform and looks of an image layer, as plain data."""
    path, part = image_path(layer)
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return {
        "name": layer.name,
        "path": "" if path is None else str(path),
        "part": part,
        "plugin": layer.source.reader_plugin or "",
        "rgb": bool(getattr(layer, "rgb", False)),
        "shape": [int(n) for n in data.shape],
        "dtype": np.dtype(data.dtype).str,
        "transform": transform_facts(layer),
        "contrast_limits": [float(v) for v in layer.contrast_limits],
        "colormap": layer.colormap.name,
        "visible": bool(layer.visible),
        "opacity": float(layer.opacity),
        **known_of(layer, path),
    }


def image_path(layer: Layer) -> tuple[Path | None, int | str | None]:
    """The file behind a layer and what was chosen of it; ``None`` when it is not on a disk."""
    entry = layer.metadata.get(METADATA)
    volume = entry.get("volume") if isinstance(entry, dict) else None
    path = volume.path if volume is not None else layer.source.path
    part = getattr(volume, "part", None)
    found = Path(path).absolute() if path else None
    return (found if found is not None and found.exists() else None), part


def transform_facts(layer: Layer) -> dict[str, Any]:
    """Every part of a layer's transform as plain data."""
    return {
        "scale": [float(v) for v in layer.scale],
        "translate": [float(v) for v in layer.translate],
        "rotate": np.asarray(layer.rotate).tolist(),
        "shear": np.asarray(layer.shear).tolist(),
        "affine": np.asarray(layer.affine.affine_matrix).tolist(),
        "units": [str(unit) for unit in layer.units],
        "axis_labels": list(layer.axis_labels),
    }


def bring_image(
    viewer: ViewerModel,
    facts: dict[str, Any],
    path: Path | None = None,
    pixels: Any = None,
) -> Image:
    """Open the image of ``facts`` again, unless a layer of the same file stands there already.

    ``path``: where its file is now; ``pixels``: those that were kept instead of a file. Raises
    :class:`ImageGone` when the file is not there or holds another image.
    """
    where = path or (Path(facts["path"]) if facts.get("path") else None)
    shape = tuple(facts["shape"])
    if pixels is None:
        if where is None or not where.exists():
            raise ImageGone(
                f"the image {facts['name']} is not where it was ({where}); say where it is now"
            )
        wanted = where.absolute(), facts.get("part")
        for layer in viewer.layers:
            if layer._type_string == "image" and image_path(layer) == wanted:
                data = layer.data[0] if layer.multiscale else layer.data
                if tuple(data.shape) == shape:
                    return layer
    made = _kept(facts, pixels) if pixels is not None else _from_file(facts, where)
    data = made.data[0] if getattr(made, "multiscale", False) else made.data
    if tuple(data.shape) != shape:
        raise ImageGone(
            f"{where} is {tuple(data.shape)} but the image {facts['name']} was {shape}; say where "
            "that one is now"
        )
    made.name = facts["name"]
    _dress(made, facts)
    return viewer.add_layer(made)


def _kept(facts: dict[str, Any], pixels: Any) -> Image:
    from napari.layers import Image

    return Image(pixels, rgb=bool(facts["rgb"]), name=facts["name"])


def _from_file(facts: dict[str, Any], where: Path | None) -> Any:
    from napari.layers import Layer

    from napari_attnseg.viewer.unpacking import read_for_window

    assert where is not None
    plugin = facts.get("plugin", "")
    if plugin in ("", "napari-attnseg"):
        try:
            part = facts.get("part")
            volume = read_for_window(where, part)
        except AttnSegError as error:
            raise ImageGone(str(error)) from error
        return Layer.create(*volume_to_layer_data(volume))
    import npe2

    try:
        found = npe2.read([str(where)], stack=False, plugin_name=plugin)
    except Exception as error:  # a plugin that is gone, or whatever it raises
        raise ImageGone(f"{where} could not be opened by {plugin}: {error}") from error
    for data in found:
        layer = Layer.create(*data)
        if layer._type_string == "image":
            return layer
    raise ImageGone(f"{where} could not be opened by {plugin}; say where the image is now")


def _dress(layer: Any, facts: dict[str, Any]) -> None:
    """Transform and looks as they were; a file whose voxels lie elsewhere now is shown there."""
    for name, value in facts["transform"].items() if not moved(facts, layer) else ():
        setattr(layer, name, tuple(value) if name in ("units", "axis_labels") else np.array(value))
    low, high = facts["contrast_limits"]
    if not facts["rgb"] and high > low:
        layer.contrast_limits = (low, high)
    names = layer.colormap.name
    if facts["colormap"] != names:
        _color(layer, facts["colormap"])
    layer.visible, layer.opacity = facts["visible"], facts["opacity"]


def _color(layer: Any, name: str) -> None:
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    if name in AVAILABLE_COLORMAPS and not layer.rgb:
        layer.colormap = name
