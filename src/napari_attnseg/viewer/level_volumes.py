"""Maps of 3D models as layers: volumes over the window that they are of, on their own grid.

A window lies where one looks, so such a layer holds one window alone and moves with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.layers import METADATA, map_transform

if TYPE_CHECKING:
    from napari_attnseg.control.questions import LevelMapFile
    from napari_attnseg.viewer.results import ResultLayers


def is_volume(results: ResultLayers, found: LevelMapFile) -> bool:
    """Whether a map is shown as a volume: it is one, and so is the image."""
    return bool(found.depth) and results.source.ndim == 3


def axes_of(found: LevelMapFile) -> int:
    """Axes of one picture of a map."""
    return 3 if found.depth else 2


def on_image(
    results: ResultLayers, found: LevelMapFile, values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The values as the image has them: over a flat image a volume is its one slice."""
    return values[..., 0, :, :] if found.depth and results.source.ndim == 2 else values


def strongest(found: LevelMapFile, values: npt.NDArray[Any], slices: int) -> int | None:
    """The slice on which a volume (d, h, w) is largest; ``None`` for what is none."""
    if not found.depth or values.ndim != 3 or not values.size:
        return None
    plane = int(np.unravel_index(int(values.argmax()), values.shape)[0])
    scale, first = found.depth
    return min(max(round(first + scale * plane), 0), slices - 1)


def show_volume(
    results: ResultLayers, what: str, found: LevelMapFile, values: npt.NDArray[Any], **look: Any
) -> Any:
    """The layer called ``what`` with one picture (d, h, w) in it: of ids a Labels layer, else an
    Image; made hidden, below the labels, when it is not there."""
    ids = values.dtype == np.uint8
    values, scale, first = _within_slices(values, found.depth, results.shape[0])
    place = map_transform(results.source, found.scale, found.offset, (scale, first))
    layer = results.layer(what)
    if layer is not None and layer.ndim != 3:
        results.viewer.layers.remove(layer)
        layer = None
    if layer is None:
        return _new(results, what, values, ids, place | look)
    if layer.data.shape != values.shape or not np.array_equal(layer.data, values):
        layer.data = values
    for name in ("scale", "translate"):
        if not np.allclose(getattr(layer, name), place[name]):
            setattr(layer, name, place[name])
    return layer


def _new(
    results: ResultLayers, what: str, values: npt.NDArray[Any], ids: bool, look: dict[str, Any]
) -> Any:
    from napari.layers import Image, Labels

    entry = {METADATA: {"result_of": results.source.name, "what": what}}
    about: dict[str, Any] = {"name": results.name(what), "metadata": entry, "visible": False}
    if ids:
        layer: Any = Labels(values, opacity=0.5, **about, **look)
        layer.editable = False  # it is the model's own choice, not a mask
    else:
        plain = {"contrast_limits": (0.0, 1.0), "blending": "translucent"}
        layer = Image(values, opacity=0.7, rgb=False, **about, **(plain | look))
    results.adopt(what, layer)
    return layer


def _within_slices(
    values: npt.NDArray[Any], depth: tuple[float, ...], slices: int
) -> tuple[npt.NDArray[Any], float, float]:
    """The values, the distance of their planes in slices and the centre of the first.

    napari steps through slices by the finest layer, from the first centre on: a map that is finer
    than the scan, or a cell centred in front of its first slice, would put the slider between
    slices. Of such a map every slice gets the plane that it lies in.
    """
    scale, first = depth
    last = first + scale * (len(values) - 1)
    if scale >= 1 and first >= 0 and last <= slices - 1:
        return values, scale, first
    low = max(0, int(np.ceil(first - scale / 2)))
    high = min(slices - 1, int(np.ceil(last + scale / 2)) - 1)
    planes = np.floor((np.arange(low, max(low, high) + 1) - first) / scale + 0.5).astype(int)
    return values[np.clip(planes, 0, len(values) - 1)], 1.0, float(low)
