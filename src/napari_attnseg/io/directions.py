"""From directions and origins of other formats to the RAS+ affine of this program."""

from __future__ import annotations

import numpy as np

SIGNS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
"""Signs that turn a world into RAS+; exact."""
SHORT = {"ras": "right-anterior-superior", "las": "left-anterior-superior"}
LPS = "left-posterior-superior"


def ras_affine(steps: np.ndarray, origin: np.ndarray, world: str = LPS) -> np.ndarray:
    """(4, 4) from ``steps`` (3, 3), mm of one voxel along each file axis in its columns, and the
    ``origin`` (3,), centre of the first voxel, both in ``world``."""
    signs = np.array(SIGNS[world])
    affine = np.eye(4)
    affine[:3, :3] = signs[:, None] * steps
    affine[:3, 3] = signs * origin
    return affine + 0.0  # no minus zeros
