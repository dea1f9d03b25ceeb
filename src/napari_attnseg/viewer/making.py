"""How the labels of an image came about, as their export tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_attnseg.io.provenance import about, edits
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer.layers import layer_source
from napari_attnseg.viewer.measure_steps import steps_of

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.viewer.results import ResultLayers


def making_of(results: ResultLayers) -> dict[str, Any]:
    """The provenance of the run, and what was changed by hand since: how many pixels, which, and
    by which tidying steps. Values that were moved after the run are told too."""
    told = dict(results.provenance)
    if results.edits is None or results.labels is None:
        return told
    held, area = results.edits.planes, results.shape[1] * results.shape[2]
    slices = sorted({key[0] for key in held.held.everywhere()})
    found = edits(((z, held.mask(z)) for z in slices), area, steps_of(results.labels))
    told["hand_edited_pixels"] = found["voxels"] if found else 0
    if found:
        told["edits"] = found
    moved = _moved(told.get("tuning"), results.edits.tuning)
    if moved:
        told["tuning_since"] = moved
    return told


def _moved(run: Any, now: Any) -> dict[str, Any]:
    """Values that are others now than those of the run: slices seen since were made with them."""
    if now is None or not isinstance(run, Mapping):
        return {}
    return {k: v for k, v in now.to_json().items() if k in run and run[k] != v}


def with_source(told: dict[str, Any], volume: Volume | None, layer: Layer) -> dict[str, Any]:
    """``told`` with the source's digest also where the image layer came from no file."""
    if volume is not None or not told.get("model"):
        return told
    seen = layer_source(layer)
    flat = layer.data.ndim - int(seen.rgb) == 2
    pixels = seen.array[0] if flat else seen.array
    return {**told, "source": about(Volume.from_array(pixels, rgb=seen.rgb))}
