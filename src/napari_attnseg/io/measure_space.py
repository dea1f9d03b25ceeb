"""What one voxel of a mask is worth: its volume, and where it lies in the world.

Everything follows from the affine itself, never from spacing x direction, so anisotropic, oblique
and sheared volumes are exact: a voxel's volume is ``|det|`` of the affine's 3 x 3 part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from napari_attnseg.io.volume import Volume

TOLERANCE_MM = 2.0
"""Default tolerance of the surface Dice for volumes in millimetres."""
TOLERANCE_PIXELS = 2.0
"""The same for pictures, and for volumes that do not know their voxel size, in pixels."""
CORNERS = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)


@dataclass(frozen=True, eq=False)
class Space:
    """Voxel (z, y, x) of the view order to the world.

    ``affine``: (4, 4) float64. ``unit``: ``"mm"``, or ``"px"`` where no size is known. ``axes``:
    what the three world numbers are: ``("R", "A", "S")`` of a scan, else ``("z", "y", "x")``.
    ``flat``: a 2D picture, which has an area and a perimeter, and no volume.
    """

    affine: np.ndarray
    unit: str = "px"
    axes: tuple[str, str, str] = ("z", "y", "x")
    flat: bool = False

    @property
    def linear(self) -> np.ndarray:
        """World step (column) of one voxel along z, y and x."""
        return self.affine[:3, :3]

    @cached_property
    def voxel(self) -> float:
        """Size of one voxel: mm^3 (voxels without a unit: 1), of a picture mm^2."""
        linear = self.linear[1:, 1:] if self.flat else self.linear
        return float(abs(np.linalg.det(linear)))

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Length of one step along z, y and x."""
        z, y, x = (float(v) for v in np.linalg.norm(self.linear, axis=0))
        return z, y, x

    @property
    def default_tolerance(self) -> float:
        """Tolerance of the surface Dice where nobody names one, in :attr:`unit`."""
        if self.flat:
            return TOLERANCE_PIXELS * max(self.spacing[1:])
        return TOLERANCE_MM if self.unit == "mm" else TOLERANCE_PIXELS

    def world(self, index_ZYX: np.ndarray) -> np.ndarray:
        """World positions (N, 3) of voxel indices (N, 3)."""
        return np.asarray(index_ZYX, float) @ self.linear.T + self.affine[:3, 3]

    def world_box(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest world coordinates of the voxels ``low`` up to before ``high``,
        with their whole bodies (half a voxel around the centres)."""
        corners = self.world(low + CORNERS * (high - low) - 0.5)
        return corners.min(0), corners.max(0)


def space_of(volume: Volume | None, depth: int = 2) -> Space:
    """The space of a volume; without one pixels, ``depth`` telling a picture (1) from a volume."""
    if volume is None:
        return Space(np.eye(4), flat=depth == 1)
    geometry = volume.geometry
    if geometry is not None:
        affine = geometry.affine.copy()
        affine[:, :3] = geometry.affine[:, list(geometry.order)]
        for axis in range(3):
            if volume.turned[axis]:  # from the last voxel back
                affine[:3, 3] += affine[:3, axis] * (volume.shape[axis] - 1)
                affine[:3, axis] *= -1
        return Space(affine, "mm", ("R", "A", "S"))
    flat = volume.data.ndim - int(volume.rgb) == 2
    size = volume.pixel_mm
    if size is None:
        return Space(np.eye(4), flat=flat)
    return Space(np.diag([1.0 if flat else size[0], size[1], size[2], 1.0]), "mm", flat=flat)
