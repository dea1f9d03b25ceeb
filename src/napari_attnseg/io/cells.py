"""Area of a mask's surface by marching cubes, without ever building a mesh.

A mask is 0 or 1, so a cube of 2 x 2 x 2 voxels is one of 256 kinds, and marching cubes
(scikit-image's, after Lewiner et al. 2003, at level 0.5) gives each kind one fixed piece of
surface. The area of the 256 pieces under the affine is computed once; the area of a mask is a sum
over its cubes, two slices at a time. Of a picture the pieces are those of marching squares.

Where the image ends the mask ends too: it is closed there.
"""

from __future__ import annotations

from itertools import product

import numpy as np

FULL_3D, FULL_2D = 255, 15


def area_table(linear: np.ndarray) -> np.ndarray:
    """Area of each of the 256 kinds of cube, (256,), under the (3, 3) steps along z, y, x."""
    from skimage.measure import marching_cubes, mesh_surface_area

    table = np.zeros(FULL_3D + 1)
    for code in range(1, FULL_3D):
        cube = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, *_ = marching_cubes(cube, 0.5)
        table[code] = mesh_surface_area(vertices.astype(float) @ linear.T, faces)
    return table


def length_table(linear: np.ndarray) -> np.ndarray:
    """Length of each of the 16 kinds of square, (16,), under the (2, 2) steps along y, x.

    Corners that touch count as joined, as components do.
    """
    from skimage.measure import find_contours

    table = np.zeros(FULL_2D + 1)
    for code in range(1, FULL_2D):
        square = np.array([code >> bit & 1 for bit in range(4)], float).reshape(2, 2)
        for line in find_contours(square, 0.5, fully_connected="high"):
            table[code] += np.linalg.norm(np.diff(line, axis=0) @ linear.T, axis=1).sum()
    return table


def corners(array: np.ndarray) -> list[np.ndarray]:
    """The 2^n arrays of cell corners, as views; bit ``i`` of a code is corner ``i``."""
    sides = (slice(None, -1), slice(1, None))
    return [array[tuple(part)] for part in product(sides, repeat=array.ndim)]


def border_cells(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells that the surface of ``mask`` runs through: flat indices, and their codes."""
    code = np.zeros([n - 1 for n in mask.shape], np.uint8)
    parts = corners(mask.view(np.uint8))
    for bit, part in enumerate(parts):
        code |= part << np.uint8(bit)
    full = FULL_2D if mask.ndim == 2 else FULL_3D
    where = np.flatnonzero((code != 0) & (code != full))
    return where, code.reshape(-1)[where]
