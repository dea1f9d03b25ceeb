"""A layer as the coarse mask of a refinement: labels, or an image of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.strokes import is_strokes, spatial_shape

if TYPE_CHECKING:
    from napari.layers import Image, Layer

Kind = Literal["labels", "probability"]
_SLACK = 1e-4
"""Rounding that a probability may stand outside of 0 to 1."""


def fits_coarse(layer: Layer, image: Image | None) -> bool:
    """Whether a layer can be the coarse mask of ``image``: labels or a grey image of its size,
    neither strokes nor what a refinement made."""
    if image is None or layer is image or is_strokes(layer):
        return False
    entry = layer.metadata.get(METADATA)
    made = str(entry.get("what", "")) if isinstance(entry, dict) else ""
    if made.startswith(("refined", "steps", "attention")):
        return False
    kind = layer._type_string
    grey = kind == "image" and not layer.rgb and np.dtype(layer.dtype).kind in "bf"
    return (kind == "labels" or grey) and spatial_shape(layer) == spatial_shape(image)


def coarse_map(layer: Layer, image: Image, classes: int) -> tuple[npt.NDArray[Any], Kind]:
    """The coarse mask in ``layer`` as (Z, Y, X), and how it is to be read.

    Labels become uint8 class ids; where there is one class, every label counts as it (numbered
    objects too). Probabilities become float32.

    Raises:
        InputError: another size than ``image``; labels beyond the ``classes``; values of a
            probability outside of 0 to 1.
    """
    have, want = spatial_shape(layer), spatial_shape(image)
    if have != want:
        raise InputError(
            f"the coarse mask {layer.name!r} is {have} but image {image.name!r} is {want}; choose "
            "a layer made on this image"
        )
    data = np.asarray(layer.data[0] if getattr(layer, "multiscale", False) else layer.data)
    array = data[None] if data.ndim == 2 else data
    if layer._type_string == "labels":
        return _class_ids(array, classes, layer.name), "labels"
    return _probability(array, layer.name), "probability"


def _class_ids(array: npt.NDArray[Any], classes: int, name: str) -> npt.NDArray[np.uint8]:
    if classes == 1:
        return (array > 0).astype(np.uint8)
    top = int(array.max(initial=0))
    if top > classes:
        raise InputError(
            f"the coarse mask {name!r} has labels up to {top}, expected 0 to {classes}, the "
            "classes of this refinement; choose class labels, not numbered objects"
        )
    return array.astype(np.uint8)


def _probability(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.float32]:
    values = array.astype(np.float32)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (low >= -_SLACK and high <= 1.0 + _SLACK):
        raise InputError(
            f"the coarse mask {name!r} has values from {low:.4g} to {high:.4g}, expected a "
            "probability from 0 to 1; choose another layer, or scale this one"
        )
    return values
