"""Where attention stands in space: reliefs and scatters of a map, in world coordinates.

A relief lifts every cell of a map out of its slice by what it holds; a scatter puts one ball per
cell at the same height. Both are built in *world* coordinates, so rotated, sheared or flipped
images carry them along. Height is along the first world axis: ``up`` = 1 lifts towards the viewer
of napari's default camera, -1 where a camera looks along the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Layer

RELIEF = 0.25
"""Height of the strongest cell, as a share of the image's shorter side."""
GAP = 0.06
"""Space between maps that stand side by side, as a share of the image's width."""
MOST_POINTS = 4096


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
    layer: Layer, amap: AttentionMap, limits: tuple[float, float], up: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Vertices (V, 3) in world coordinates, faces (F, 3) and values (V,) of a relief.

    One vertex per cell centre, and a rim that repeats the outer cells at the image's edge, so
    that the relief covers the image exactly: V = (h + 2)(w + 2), F = 2 (h + 1)(w + 1).
    """
    values = np.pad(np.nan_to_num(np.asarray(amap.values, dtype=np.float64)), 1, mode="edge")
    rows = _with_rim(amap.values.shape[0], amap.cell[0], amap.first[0], layer, -2)
    columns = _with_rim(amap.values.shape[1], amap.cell[1], amap.first[1], layer, -1)
    vertices = _lift(layer, amap, rows, columns, values, limits, up)
    return vertices, _grid_faces(*values.shape), values.ravel()


def point_geometry(
    layer: Layer, amap: AttentionMap, limits: tuple[float, float], up: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (P, 3) in world coordinates and values (P,) of the strongest cells."""
    values = np.nan_to_num(np.asarray(amap.values, dtype=np.float64))
    rows = _centres(values.shape[0], amap.cell[0], amap.first[0])
    columns = _centres(values.shape[1], amap.cell[1], amap.first[1])
    positions = _lift(layer, amap, rows, columns, values, limits, up)
    flat = values.ravel()
    if flat.size > MOST_POINTS:
        strongest = np.sort(np.argpartition(flat, -MOST_POINTS)[-MOST_POINTS:])
        return positions[strongest], flat[strongest]
    return positions, flat


def _centres(n: int, cell: float, offset: float) -> NDArray[np.float64]:
    """Pixel coordinates of cell centres (napari's pixel centres are integers)."""
    return np.asarray(offset + np.arange(n) * cell, dtype=np.float64)


def _with_rim(n: int, cell: float, offset: float, layer: Layer, axis: int) -> NDArray[np.float64]:
    """Cell centres with the image's two edges around them; none lies outside of the image."""
    size = image_shape(layer)[axis]
    inner = np.clip(_centres(n, cell, offset), -0.5, size - 0.5)
    return np.concatenate([[-0.5], inner, [size - 0.5]])


def image_shape(layer: Layer) -> tuple[int, ...]:
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
    up: float,
) -> NDArray[np.float64]:
    """Grid points (rows x columns, 3) of the slice in world space, lifted by their values."""
    y, x = np.meshgrid(rows, columns, indexing="ij")
    z = np.full(y.size, float(amap.z))
    ground = _to_world(layer, np.column_stack([z, y.ravel(), x.ravel()]))
    side = sides_of(layer)
    low, high = limits
    height = np.clip((values.ravel() - low) / (high - low), 0.0, 1.0)
    shortest = min(np.linalg.norm(side[0]), np.linalg.norm(side[1]))
    lift = np.array([up, 0.0, 0.0])
    return ground + shift_of(layer, amap.side) + np.outer(height * RELIEF * shortest, lift)


def sides_of(layer: Layer) -> NDArray[np.float64]:
    """World vectors (2, 3) along the image's rows (downwards) and columns (rightwards)."""
    height, width = image_shape(layer)[-2:]
    corners = np.array([[0.0, 0.0, 0.0], [0.0, height, 0.0], [0.0, 0.0, width]])
    world = _to_world(layer, corners)
    return world[1:] - world[0]


def shift_of(layer: Layer, side: int) -> NDArray[np.float64]:
    """World vector (3,) that moves a map ``side`` places to the right *on the screen*."""
    along = sides_of(layer)[1] * (1.0 + GAP) * side
    return along if along[2] >= 0 else -along


def _grid_faces(h: int, w: int) -> NDArray[np.int64]:
    """Two triangles per square of an h x w grid of vertices."""
    index = np.arange(h * w).reshape(h, w)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    return np.concatenate([np.column_stack([a, c, b]), np.column_stack([b, c, d])])
