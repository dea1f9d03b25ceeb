"""Attention as image, relief and scatter, in the image's own space.

A relief (Surface layer) lifts every cell of a map out of its slice by what it holds; a scatter
(Points layer) puts one ball per cell at the same height. Both are built in *world* coordinates,
so rotated, sheared or flipped images carry them along, and height is towards the viewer of
napari's default camera (against the first world axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_attnseg.viewer.layers import METADATA, map_transform

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

Kind = Literal["image", "surface", "points"]
COLORMAP = "inferno"
RELIEF_COLORMAP = "turbo"
RELIEF = 0.25
"""Height of the strongest cell, as a share of the image's shorter side."""
GAP = 0.06
"""Space between maps that stand side by side, as a share of the image's width."""
MOST_POINTS = 4096
_VIEW = "attention_view"
_ANGLES = (0.0, 0.0, 52.0)
"""Looking down on the slice from below its lower edge, columns still running rightwards."""


@dataclass(frozen=True)
class AttentionMap:
    """One map over one slice.

    ``values`` (h, w); ``cell``: image pixels (rows, columns) per map cell; ``offset``: the pixel
    on which the first cell is centred (``None``: the map starts at the image's edge), see
    ``layers.map_transform``; ``z``: slice (0 for 2D); ``side``: 0 stands on the image, 1 one
    image width to the right of it, and so on.
    """

    values: NDArray[np.floating[Any]]
    cell: tuple[float, float]
    name: str
    z: int = 0
    offset: tuple[float, float] | None = None
    side: int = 0

    @property
    def first(self) -> tuple[float, float]:
        """The pixel (row, column) on which the first cell is centred."""
        return self.offset or ((self.cell[0] - 1) / 2, (self.cell[1] - 1) / 2)


def limits_of(maps: Sequence[AttentionMap]) -> tuple[float, float]:
    """One colour and height scale for all ``maps``, without the strongest 1 % of cells."""
    values = np.concatenate([np.asarray(m.values, dtype=np.float64).ravel() for m in maps])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(np.percentile(values, 99.0))
    return (low, high) if high > low else (low, low + max(abs(low), 1.0) * 1e-6)


def surface_geometry(
    layer: Layer, amap: AttentionMap, limits: tuple[float, float], relief: float = RELIEF
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Vertices (V, 3) in world coordinates, faces (F, 3) and values (V,) of a relief.

    One vertex per cell centre, and a rim that repeats the outer cells at the image's edge, so
    that the relief covers the image exactly: V = (h + 2)(w + 2), F = 2 (h + 1)(w + 1).
    """
    values = np.pad(np.nan_to_num(np.asarray(amap.values, dtype=np.float64)), 1, mode="edge")
    rows = _with_rim(amap.values.shape[0], amap.cell[0], amap.first[0], layer, -2)
    columns = _with_rim(amap.values.shape[1], amap.cell[1], amap.first[1], layer, -1)
    vertices = _lift(layer, amap, rows, columns, values, limits, relief)
    return vertices, _grid_faces(*values.shape), values.ravel()


def point_geometry(
    layer: Layer, amap: AttentionMap, limits: tuple[float, float], relief: float = RELIEF
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (P, 3) in world coordinates and values (P,) of the strongest cells."""
    values = np.nan_to_num(np.asarray(amap.values, dtype=np.float64))
    rows = _centres(values.shape[0], amap.cell[0], amap.first[0])
    columns = _centres(values.shape[1], amap.cell[1], amap.first[1])
    positions = _lift(layer, amap, rows, columns, values, limits, relief)
    flat = values.ravel()
    if flat.size > MOST_POINTS:
        strongest = np.sort(np.argpartition(flat, -MOST_POINTS)[-MOST_POINTS:])
        return positions[strongest], flat[strongest]
    return positions, flat


def show_maps(
    viewer: ViewerModel, layer: Image, maps: Sequence[AttentionMap], kind: Kind
) -> list[Layer]:
    """Show ``maps`` over ``layer`` on one common scale.

    There is one layer per kind and side; it is reused (and renamed) by later maps.
    """
    limits = limits_of(maps)
    show = {"image": _show_image, "surface": _show_surface, "points": _show_points}[kind]
    sides = {m.side for m in maps}
    point, chosen = tuple(viewer.dims.point), viewer.layers.selection.active
    for view in attention_views(viewer):
        if _entry(view)[_VIEW][0] != kind:
            view.visible = False  # two forms of one map over each other only hide both
    for view in attention_views(viewer):
        if _entry(view)[_VIEW][0] == kind and _entry(view)[_VIEW][1] not in sides:
            viewer.layers.remove(view)
    shown = [show(viewer, layer, amap, limits) for amap in maps]
    for view, amap in zip(shown, maps, strict=True):
        if view.name != amap.name:
            view.name = amap.name
    if chosen is not None and chosen in viewer.layers:
        viewer.layers.selection.active = chosen  # whoever was painting goes on painting
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


class Stage3D:
    """Goes to the 3D view so that a relief can be seen, and back to what there was before.

    A volume is shown as the one slice the relief stands on (a 3D rendering would bury it), and
    other layers of it are hidden meanwhile.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._hidden: list[Layer] = []
        self._plane: tuple[Image, str] | None = None
        self._point: tuple[float, ...] = ()

    @property
    def entered(self) -> bool:
        """Whether :meth:`enter` changed something that :meth:`leave` will put back."""
        return bool(self._hidden) or self._plane is not None

    def enter(self, layer: Image, z: int) -> None:
        """Turn to 3D with slice ``z`` of ``layer`` as the ground, seen from the side."""
        views = attention_views(self._viewer)
        for other in self._viewer.layers:
            if other.visible and other is not layer and other not in views:
                other.visible = False
                self._hidden.append(other)
        if layer.ndim == 3 and not layer.rgb:
            self._plane = self._plane or (layer, str(layer.depiction))
            layer.depiction = "plane"
            middle = (np.asarray(layer.data.shape[:3]) - 1) / 2.0
            layer.plane.position = (float(z), float(middle[1]), float(middle[2]))
            layer.plane.normal = (1.0, 0.0, 0.0)
            layer.plane.thickness = 1.0
        if self._viewer.dims.ndisplay != 3:
            self._point = tuple(self._viewer.dims.point)
            self._viewer.dims.ndisplay = 3
            self._viewer.reset_view()
            _camera(self._viewer).angles = _ANGLES

    def leave(self) -> None:
        """Back to the same slice in 2D, with the layers as they were; reliefs and scatters go.

        They reach beyond the image, and napari's slice slider would not meet its slices any more.
        """
        for view in attention_views(self._viewer):
            if _entry(view)[_VIEW][0] != "image":
                self._viewer.layers.remove(view)
        self._viewer.dims.ndisplay = 2
        if len(self._point) == self._viewer.dims.ndim:
            self._viewer.dims.point = self._point
        if self._plane is not None:
            layer, depiction = self._plane
            layer.depiction = depiction
            self._plane = None
        hidden, self._hidden = self._hidden, []
        for other in hidden:
            other.visible = True


# --- geometry ---------------------------------------------------------------------------------


def _centres(n: int, cell: float, offset: float) -> NDArray[np.float64]:
    """Pixel coordinates of cell centres (napari's pixel centres are integers)."""
    return np.asarray(offset + np.arange(n) * cell, dtype=np.float64)


def _with_rim(n: int, cell: float, offset: float, layer: Layer, axis: int) -> NDArray[np.float64]:
    """Cell centres with the image's two edges around them; none lies outside of the image."""
    size = _image_shape(layer)[axis]
    inner = np.clip(_centres(n, cell, offset), -0.5, size - 0.5)
    return np.concatenate([[-0.5], inner, [size - 0.5]])


def _image_shape(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.data.shape[: layer.ndim])


def _to_world(layer: Layer, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Data coordinates (P, 3) of a 2D or 3D layer to world coordinates (P, 3)."""
    matrix = np.asarray(layer._data_to_world.affine_matrix)
    n = layer.ndim
    world = points[:, -n:] @ matrix[:n, :n].T + matrix[:n, n]
    return world if n == 3 else np.column_stack([np.zeros(len(world)), world])


def _lift(
    layer: Layer,
    amap: AttentionMap,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    values: NDArray[np.float64],
    limits: tuple[float, float],
    relief: float,
) -> NDArray[np.float64]:
    """Grid points (rows x columns, 3) of the slice in world space, lifted by their values."""
    y, x = np.meshgrid(rows, columns, indexing="ij")
    z = np.full(y.size, float(amap.z))
    ground = _to_world(layer, np.column_stack([z, y.ravel(), x.ravel()]))
    side = _sides(layer)
    low, high = limits
    height = np.clip((values.ravel() - low) / (high - low), 0.0, 1.0)
    shortest = min(np.linalg.norm(side[0]), np.linalg.norm(side[1]))
    up = np.array([-1.0, 0.0, 0.0])
    return ground + shift_of(layer, amap.side) + np.outer(height * relief * shortest, up)


def _sides(layer: Layer) -> NDArray[np.float64]:
    """World vectors (2, 3) along the image's rows (downwards) and columns (rightwards)."""
    height, width = _image_shape(layer)[-2:]
    corners = np.array([[0.0, 0.0, 0.0], [0.0, height, 0.0], [0.0, 0.0, width]])
    world = _to_world(layer, corners)
    return world[1:] - world[0]


def shift_of(layer: Layer, side: int) -> NDArray[np.float64]:
    """World vector (3,) that moves a map ``side`` places to the right *on the screen*."""
    along = _sides(layer)[1] * (1.0 + GAP) * side
    return along if along[2] >= 0 else -along


def _grid_faces(h: int, w: int) -> NDArray[np.int64]:
    """Two triangles per square of an h x w grid of vertices."""
    index = np.arange(h * w).reshape(h, w)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    return np.concatenate([np.column_stack([a, c, b]), np.column_stack([b, c, d])])


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
    vertices, faces, values = surface_geometry(layer, amap, limits)
    data = (vertices / world["scale"], faces, values)
    known = _known(viewer, "surface", amap.side)
    if known is not None:
        known.data, known.contrast_limits, known.visible = data, limits, True
        known.scale = world["scale"]
        return known
    return viewer.add_surface(
        data,
        name=amap.name,
        colormap=RELIEF_COLORMAP,
        contrast_limits=limits,
        shading="none",
        metadata=_metadata(layer, "surface", amap.side),
        **world,
    )


def _show_points(
    viewer: ViewerModel, layer: Image, amap: AttentionMap, limits: tuple[float, float]
) -> Layer:
    positions, values = point_geometry(layer, amap, limits)
    rows, columns = _sides(layer)
    n_rows, n_columns = _image_shape(layer)[-2:]
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
        face_colormap=RELIEF_COLORMAP,
        face_contrast_limits=limits,
        border_width=0.0,
        shading="spherical",
        projection_mode="all",
        metadata=_metadata(layer, "points", amap.side),
        **world,
    )


def _camera(viewer: ViewerModel) -> Any:
    return getattr(viewer, "scene", viewer).camera
