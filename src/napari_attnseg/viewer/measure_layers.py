"""Labels layers as what is measured: their space, their image, and the way back to a place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import InputError, plain_sentence
from napari_attnseg.io.agreement import (
    ONLY_MASK,
    ONLY_REFERENCE,
    OTHER_CLASS,
    SAME,
    as_reference,
    error_map,
)
from napari_attnseg.io.measure_space import Space, space_of
from napari_attnseg.viewer.layers import METADATA, layer_volume, transform_of
from napari_attnseg.viewer.measures import checked_ids
from napari_attnseg.viewer.memory import empty_volume
from napari_attnseg.viewer.writer import source_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.io.measures import Region

ERROR_COLOURS = {
    SAME: "#9aa5b1",
    ONLY_MASK: "#e8467c",
    ONLY_REFERENCE: "#2f8fe8",
    OTHER_CLASS: "#f5b301",
}
ERROR_NAMES = {
    SAME: "agreement",
    ONLY_MASK: "only in the mask",
    ONLY_REFERENCE: "only in the reference",
    OTHER_CLASS: "other class",
}


def ids_of(layer: Labels) -> Any:
    """The layer's ids (Z, Y, X), no copy; of several levels the finest."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return checked_ids(data, layer.name)


def pixels_beside(layer: Labels, image: Layer | None) -> Any:
    """Values (Z, Y, X[, C]) of ``image`` under the labels; ``None`` if there is none.

    Raises ``InputError`` when the sizes differ.
    """
    if image is None:
        return None
    data = image.data[0] if getattr(image, "multiscale", False) else image.data
    if data.ndim - int(getattr(image, "rgb", False)) == 2:
        data = data[None]
    if tuple(data.shape[:3]) != tuple(ids_of(layer).shape):
        raise InputError(
            f"the image {image.name} is {tuple(data.shape[:3])} (Z, Y, X) but {layer.name} is "
            f"{tuple(ids_of(layer).shape)}; choose the image it was made from, or none"
        )
    return data


def image_of(layer: Labels, viewer: ViewerModel) -> Image | None:
    """The image that labels belong to: the one they were made from, else one in their place."""
    from napari.layers import Image

    made_from = source_of(layer, viewer)
    if isinstance(made_from, Image):
        return made_from
    fitting = [
        x
        for x in viewer.layers
        if isinstance(x, Image)
        and "result_of" not in x.metadata.get(METADATA, {})
        and same_place(layer, x)
    ]
    return fitting[-1] if fitting else None


def same_place(layer: Layer, other: Layer) -> bool:
    """Whether two layers have the same pixels in the same places."""
    shapes = []
    for x in (layer, other):
        data = x.data[0] if getattr(x, "multiscale", False) else x.data
        shapes.append(tuple(data.shape[: data.ndim - int(getattr(x, "rgb", False))]))
    if shapes[0] != shapes[1]:
        return False
    n = layer.ndim
    corners = np.concatenate([np.zeros((1, n)), np.diag(np.array(shapes[0], float))])
    return all(
        np.allclose(layer.data_to_world(c), other.data_to_world(c), atol=1e-3) for c in corners
    )


def space_of_layer(layer: Labels, viewer: ViewerModel) -> Space:
    """The space that a mask is measured in: that of its image, else its own."""
    entry = layer.metadata.get(METADATA)
    volume = entry.get("volume") if isinstance(entry, dict) else None
    if volume is None:
        image = image_of(layer, viewer)
        volume = layer_volume(image if image is not None else layer)
    return space_of(volume, depth=1 if layer.ndim == 2 else 2)


def reference_ids(layer: Labels, reference: Labels) -> Any:
    """Ids of a reference (Z, Y, X). Raises ``InputError`` unless it has the mask's pixels in the
    mask's places."""
    ids, theirs = ids_of(layer), ids_of(reference)
    if tuple(ids.shape) != tuple(theirs.shape):
        raise InputError(
            f"{layer.name} is {tuple(ids.shape)} but the reference {reference.name} is "
            f"{tuple(theirs.shape)} (Z, Y, X); choose labels of the same image"
        )
    if not same_place(layer, reference):
        raise InputError(
            f"{layer.name} and the reference {reference.name} do not lie in the same place; "
            "choose labels of the same image"
        )
    return theirs


def names_of(layer: Labels) -> dict[int, str]:
    """Names of ids as the layer's features tell them."""
    table: Any = layer.features
    if "index" not in table.columns or "class" not in table.columns:
        return {}
    return {int(i): str(name) for i, name in zip(table["index"], table["class"], strict=True)}


def go_to(viewer: ViewerModel, layer: Labels, region: Region) -> None:
    """Show the slice of a region; one part of a class comes to the middle of the view too."""
    at = np.round(np.array(region.centroid[-layer.ndim :]))
    world = np.asarray(layer.data_to_world(at), float)
    n = viewer.dims.ndim
    hidden = [a for a in range(layer.ndim) if n - layer.ndim + a not in viewer.dims.displayed]
    for axis in hidden:
        viewer.dims.set_point(n - layer.ndim + axis, float(world[axis]))
    if region.part:
        shown = [a - (n - layer.ndim) for a in viewer.dims.displayed]
        if all(a >= 0 for a in shown):
            getattr(viewer, "scene", viewer).camera.center = tuple(float(world[a]) for a in shown)


def region_at(layer: Labels, event: Any, regions: Mapping[int, Any]) -> int:
    """The id under the mouse, 0 where there is none that was measured."""
    value = layer.get_value(
        event.position,
        view_direction=event.view_direction,
        dims_displayed=list(event.dims_displayed),
        world=True,
    )
    value = value[1] if isinstance(value, tuple) else value
    return int(value) if value is not None and int(value) in regions else 0


def error_layer(viewer: ViewerModel, layer: Labels, pixels: np.ndarray) -> Labels:
    """Show an error map (Z, Y, X) over ``layer``; an older one of the same mask is replaced."""
    from napari.layers import Labels
    from napari.utils.colormaps import DirectLabelColormap

    data = pixels[0] if layer.ndim == 2 else pixels
    name = f"{layer.name}_errors"
    old = next((x for x in viewer.layers if x.name == name and isinstance(x, Labels)), None)
    if old is not None and old.data.shape == data.shape:
        old.data = data
        old.visible = True
        return old
    table: dict[int | None, Any] = {0: "transparent", None: "transparent"}
    table.update((id, color) for id, color in ERROR_COLOURS.items())
    told = {0: "background", **ERROR_NAMES}
    made = Labels(
        data,
        name=name,
        colormap=DirectLabelColormap(color_dict=table),
        features={"index": [*told], "class": [*told.values()]},
        opacity=0.85,
        metadata={METADATA: {"result_of": layer.name, "what": "errors"}},
        **transform_of(layer),
    )
    chosen = viewer.layers.selection.active
    viewer.add_layer(made)
    if chosen is not None:
        viewer.layers.selection.active = chosen
    return made


def behind_window(
    work: Callable[[], Any],
    deliver: Callable[[Any], None],
    then: Callable[[Any], object],
    complain: Callable[[str], object],
) -> None:
    """``work`` in a thread, then ``then`` with what it gave or ``complain`` with a sentence."""

    def run() -> None:
        try:
            found = work()
        except Exception as error:  # a thread that dies in silence would leave a button grey
            sentence = plain_sentence(error) or f"that did not work ({error!r})"
            deliver(partial(complain, sentence))
            return
        deliver(partial(then, found))

    threading.Thread(target=run, name="attnseg-measure", daemon=True).start()


def errors_of(labels_ZYX: Any, reference_ZYX: Any) -> np.ndarray:
    """The error map of two masks of one size, uint8."""
    reference, _ = as_reference(labels_ZYX, reference_ZYX)
    return error_map(labels_ZYX, reference, empty_volume(tuple(labels_ZYX.shape), np.uint8))
