"""The grid on which the frames of a DICOM-SEG lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom_stack import LPS_TO_RAS, UNEVEN

OFF = 0.01
"""Share of a voxel that rounding in the headers may cost."""
MOST = 20_000
"""Slices of one mask."""


@dataclass(frozen=True, eq=False)
class Grid:
    """``affine`` (4, 4): voxel (column, row, slice) to RAS+ mm; ``shape`` in that order."""

    affine: np.ndarray
    shape: tuple[int, int, int]

    def index(self, points_LPS: np.ndarray) -> np.ndarray:
        """(N, 3) voxel indices, with fractions, of places."""
        away = points_LPS @ LPS_TO_RAS - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], away.T).T)

    def slices(self, points_LPS: np.ndarray) -> np.ndarray:
        """The slice of every frame."""
        return np.rint(self.index(points_LPS)[:, 2]).astype(int)

    def holds(self, points_LPS: np.ndarray, turn: np.ndarray, size: tuple[float, ...]) -> bool:
        """Whether frames that begin at these places, with this orientation and size of pixels,
        lie on slices of the grid, pixel on pixel."""
        index = self.index(points_LPS)
        if np.abs(index - np.rint(index)).max() > OFF or np.abs(np.rint(index[:, :2])).max() > 0:
            return False
        k = np.rint(index[:, 2])
        steps = LPS_TO_RAS @ in_plane(turn, size)
        ends = np.array(self.shape[:2]) - 1
        apart = np.linalg.solve(self.affine[:3, :3], steps - self.affine[:3, :2]) * ends
        return bool(k.min() >= 0 and k.max() < self.shape[2] and np.abs(apart).max() <= OFF)


def in_plane(turn: np.ndarray, size: tuple[float, ...]) -> np.ndarray:
    """(3, 2) LPS mm of one column and of one row."""
    return np.stack([turn[:3] * size[1], turn[3:] * size[0]], 1)


def grid_of(
    path: Path,
    points_LPS: np.ndarray,
    turn: np.ndarray,
    size: tuple[float, ...],
    plane: tuple[int, int],
) -> Grid:
    """The least grid that holds frames at these places. ``size``: mm between rows, columns and,
    0 where it is not told, slices. Raises ``InputError`` for places on no even grid."""
    along = np.cross(turn[:3], turn[3:])
    heights = points_LPS @ along
    first, last = points_LPS[heights.argmin()], points_LPS[heights.argmax()]
    gaps = np.diff(np.unique(np.round(heights, 3)))
    step, count = along * (size[2] or 1.0), 1
    if len(gaps):
        usual = _step(gaps, size[2])
        count = round(float(heights.max() - heights.min()) / usual) + 1
        if count > MOST:
            raise InputError(f"the frames of {path.name} claim {count:,} slices; export it again")
        step = (last - first) / (count - 1)
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack([in_plane(turn, size), step])
    affine[:3, 3] = LPS_TO_RAS @ first
    grid = Grid(affine + 0.0, (*plane, count))
    index = grid.index(points_LPS)
    if np.abs(index - np.array([0, 0, 1]) * np.rint(index)).max() > UNEVEN:
        raise InputError(
            f"the frames of {path.name} lie on no even grid; draw or convert it on the grid of "
            "its image first"
        )
    return grid


def _step(gaps: np.ndarray, told: float) -> float:
    """Distance of slices: the one told where the gaps are multiples of it (slices on which
    nothing is drawn are left out), else the smallest gap."""
    times = gaps / told if told > 0 else np.zeros(0)
    fits = len(times) and np.abs(times - np.rint(times)).max() < UNEVEN and times.min() > 0.5
    return told if fits else float(gaps.min())
