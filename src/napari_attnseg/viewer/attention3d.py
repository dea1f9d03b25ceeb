"""Attention as image, relief and scatter, in the image's own space: layers of napari.

Strong attention stands out and is opaque, weak attention is low and see-through, so that the
image stays visible under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_attnseg.viewer.layers import METADATA, map_transform
from napari_attnseg.viewer.relief import (
    AttentionMap,
    image_shape,
    limits_of,
    point_geometry,
    shift_of,
    sides_of,
    surface_geometry,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer
    from napari.utils.colormaps import Colormap

Kind = Literal["image", "surface", "points"]
COLORMAP = "inferno"
RELIEF_COLORMAP = "turbo"
FAINTEST = 0.12
"""Opacity of the weakest cells of a relief or scatter; from half of the scale on all is opaque."""
_VIEW = "attention_view"


def show_maps(
    viewer: ViewerModel, layer: Image, maps: Sequence[AttentionMap], kind: Kind
) -> list[Layer]:
    """Show ``maps`` over ``layer`` on one common scale.

    There is one layer per kind and side; it is reused (and renamed) by later maps, and chosen in
    the layer list, unless a person is painting.
    """
    limits = limits_of(maps)
    show = {"image": _show_image, "surface": _show_surface, "points": _show_points}[kind]
    sides = {m.side for m in maps}
    point, chosen = tuple(viewer.dims.point), viewer.layers.selection.active
    for view in attention_views(viewer):
        if kind_of(view) != kind:
            view.visible = False  # two forms of one map over each other only hide both
    for view in attention_views(viewer):
        if kind_of(view) == kind and _entry(view)[_VIEW][1] not in sides:
            viewer.layers.remove(view)
    shown = [show(viewer, layer, amap, limits) for amap in maps]
    for view, amap in zip(shown, maps, strict=True):
        if view.name != amap.name:
            view.name = amap.name
    painting = str(getattr(chosen, "mode", "pan_zoom")) not in ("pan_zoom", "transform")
    keep = kind == "image" and painting and chosen in viewer.layers
    viewer.layers.selection.active = chosen if keep else shown[0]
    if len(point) == viewer.dims.ndim and tuple(viewer.dims.point) != point:
        viewer.dims.point = point  # reliefs reach beyond the image, which moves napari's slider
    return shown


def attention_views(viewer: ViewerModel) -> list[Layer]:
    """The layers that :func:`show_maps` made in this viewer."""
    return [x for x in viewer.layers if _entry(x).get(_VIEW)]


def remove_views(viewer: ViewerModel) -> int:
    """Take all of them away; returns how many there were."""
    views = attention_views(viewer)
    for view in views:
        viewer.layers.remove(view)
    return len(views)


# --- layers -----------------------------------------------------------------------------------


def _entry(layer: Layer) -> dict[str, Any]:
    entry = layer.metadata.get(METADATA)
    return entry if isinstance(entry, dict) else {}


def _metadata(layer: Layer, kind: Kind, side: int) -> dict[str, Any]:
    return {METADATA: {"result_of": layer.name, _VIEW: (kind, side)}}


def _known(viewer: ViewerModel, kind: Kind, side: int) -> Any:
    """Our own layer of this kind and side; a layer that somebody else made is never touched."""
    return next((x for x in viewer.layers if _entry(x).get(_VIEW) == (kind, side)), None)


def _world_settings(layer: Layer) -> dict[str, Any]:
    """World axes, but slices as thick as the image's: napari's slice slider keeps its steps."""
    units = tuple(layer.units)
    if layer.ndim == 3:
        return {"units": units, "scale": (abs(float(layer.scale[0])), 1.0, 1.0)}
    return {"units": (units[0], *units), "scale": (1.0, 1.0, 1.0)}


def _show_image(
    viewer: ViewerModel, layer: Image, amap: AttentionMap, limits: tuple[float, float]
) -> Layer:
    data = np.asarray(amap.values, dtype=np.float32)
    transform = map_transform(layer, amap.cell, amap.first)
    translate = np.asarray(transform["translate"], dtype=float)
    if layer.ndim == 3:
        data = data[None]
        first = np.zeros(3)
        first[0] = amap.z
        origin = np.asarray(layer.data_to_world(first)) - np.asarray(layer.data_to_world((0,) * 3))
        translate = translate + np.linalg.solve(np.asarray(layer.affine.linear_matrix), origin)
    shift = shift_of(layer, amap.side)[-layer.ndim :]
    translate = translate + np.linalg.solve(np.asarray(layer.affine.linear_matrix), shift)
    known = _known(viewer, "image", amap.side)
    if known is not None and known.ndim == data.ndim:
        known.data, known.contrast_limits, known.visible = data, limits, True
        known.scale, known.translate = transform["scale"], translate
        known.affine = transform["affine"]
        return known
    return viewer.add_image(
        data,
        name=amap.name,
        colormap=COLORMAP,
        contrast_limits=limits,
        opacity=0.6 if amap.side == 0 else 1.0,
        interpolation2d="nearest",
        metadata=_metadata(layer, "image", amap.side),
        **(transform | {"translate": translate}),
    )


def _show_surface(
    viewer: ViewerModel, layer: Image, amap: AttentionMap, limits: tuple[float, float]
) -> Layer:
    world = _world_settings(layer)
    vertices, faces, values = surface_geometry(layer, amap, limits, upwards(viewer))
    data = (vertices / world["scale"], faces, values)
    known = _known(viewer, "surface", amap.side)
    if known is not None:
        known.data, known.contrast_limits, known.visible = data, limits, True
        known.scale = world["scale"]
        return known
    return viewer.add_surface(
        data,
        name=amap.name,
        colormap=relief_colormap(),
        contrast_limits=limits,
        shading="smooth",
        blending="translucent",
        metadata=_metadata(layer, "surface", amap.side),
        **world,
    )


def _show_points(
    viewer: ViewerModel, layer: Image, amap: AttentionMap, limits: tuple[float, float]
) -> Layer:
    positions, values = point_geometry(layer, amap, limits, upwards(viewer))
    rows, columns = sides_of(layer)
    n_rows, n_columns = image_shape(layer)[-2:]
    cell = min(
        amap.cell[0] * float(np.linalg.norm(rows)) / n_rows,
        amap.cell[1] * float(np.linalg.norm(columns)) / n_columns,
    )
    share = np.clip((values - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
    size = cell * (0.35 + 0.65 * share)
    known = _known(viewer, "points", amap.side)
    if known is not None:
        viewer.layers.remove(known)  # colours follow features: cheaper to rebuild than to mend
    world = _world_settings(layer)
    return viewer.add_points(
        positions / world["scale"],
        name=amap.name,
        size=size,
        features={"attention": values},
        face_color="attention",
        face_colormap=relief_colormap(),
        face_contrast_limits=limits,
        border_width=0.0,
        shading="spherical",
        projection_mode="all",
        metadata=_metadata(layer, "points", amap.side),
        **world,
    )


def relief_colormap() -> Colormap:
    """From violet, nearly see-through, to red, opaque."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    at = np.linspace(0.0, 1.0, 64)
    colors = np.array(ensure_colormap(RELIEF_COLORMAP).map(at))
    colors[:, 3] = np.clip(FAINTEST + 2.0 * at * (1.0 - FAINTEST), 0.0, 1.0)
    return Colormap(colors, name="attnseg-relief")


def upwards(viewer: ViewerModel) -> float:
    """Along the first world axis towards the person (1), or against it (-1)."""
    return 1.0 if str(camera_of(viewer).orientation[0]) == "towards" else -1.0


def camera_of(viewer: ViewerModel) -> Any:
    """The camera, wherever this napari keeps it."""
    return getattr(viewer, "scene", viewer).camera


def kind_of(view: Layer) -> Kind | None:
    """In which form :func:`show_maps` made this layer; ``None`` for layers of others."""
    entry = _entry(view).get(_VIEW)
    return entry[0] if entry else None
