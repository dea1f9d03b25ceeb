"""Where the voxels lie: an affine, and the exact permutation between file order and view order.

Words: *file order* is the array as it lies in the file (i, j, k). *View order* is (Z, Y, X): the
same axes permuted, never flipped, so that Z runs along superior/inferior, Y along
posterior/anterior and X along left/right. The world of a NIfTI affine is RAS+ in millimetres; the
world shown in napari is (S, P, L), so that a default camera shows a CT as radiologists do:
anterior at the top, the patient's right on the left. A permutation is exact; recomposing
spacing x direction is not, so the affine itself is never recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError

VIEW_WORLD = (2, 1, 0)
"""RAS world axis shown along each view axis: Z shows S/I, Y shows A/P, X shows R/L."""
VIEW_SIGN = (1.0, -1.0, -1.0)
"""+S is S, +P is -A, +L is -R."""
CODES = ("RL", "AP", "SI")
OBLIQUE_COSINE = 1e-4
"""Off-axis direction cosine from which a volume counts as oblique (0.006 degrees)."""


def _checked(affine: npt.ArrayLike) -> np.ndarray:
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(
            f"got an affine of shape {matrix.shape} with {int((~np.isfinite(matrix)).sum())} "
            "non-finite values; expected 4x4 finite numbers, repair the header of the file"
        )
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if spacing.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-6:
        raise InputError(
            "got an affine that maps the volume onto a plane or a point (a voxel size of zero or "
            "parallel axes); expected three independent axes, repair the header of the file"
        )
    matrix.setflags(write=False)
    return matrix


@dataclass(frozen=True, eq=False)
class Geometry:
    """The space of a volume.

    ``affine``: (4, 4) float64, voxel (i, j, k) of the file order to RAS+ millimetres.
    ``shape``: (I, J, K). ``qform_code`` and ``sform_code``: as in the NIfTI header. ``axes``: the
    file axis behind each view axis where another program chose it; without, the nearest to S, P, L.
    Raises ``InputError`` for an affine that is not finite or has no inverse.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    qform_code: int = 0
    sform_code: int = 0
    axes: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", _checked(self.affine))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @cached_property
    def _cosines(self) -> np.ndarray:
        """Direction cosines (world, file axis)."""
        matrix = self.affine[:3, :3]
        return matrix / np.linalg.norm(matrix, axis=0)

    @cached_property
    def order(self) -> tuple[int, int, int]:
        """File axis behind each view axis: ``view = np.transpose(data, order)``."""
        if self.axes is not None:
            return self.axes
        cosines = np.abs(self._cosines)
        best = max(
            permutations(range(3)),
            key=lambda p: sum(cosines[w, a] for w, a in zip(VIEW_WORLD, p, strict=True)),
        )
        return best[0], best[1], best[2]

    @cached_property
    def inverse_order(self) -> tuple[int, int, int]:
        """View axis behind each file axis: the inverse of :attr:`order`."""
        a, b, c = np.argsort(self.order)
        return int(a), int(b), int(c)

    @cached_property
    def _signs(self) -> tuple[float, ...]:
        """+1 where a view axis runs S+, P+, L+; -1 where it runs the other way."""
        return tuple(
            float(s * np.sign(self._cosines[w, a]))
            for s, w, a in zip(VIEW_SIGN, VIEW_WORLD, self.order, strict=True)
        )

    @property
    def flips(self) -> tuple[bool, bool, bool]:
        """View axes that must be reversed to run S+, P+, L+ (the standing of training)."""
        z, y, x = (s < 0 for s in self._signs)
        return z, y, x

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = (self.shape[a] for a in self.order)
        return z, y, x

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (Z, Y, X), always positive."""
        size = np.linalg.norm(self.affine[:3, :3], axis=0)
        z, y, x = (float(size[a]) for a in self.order)
        return z, y, x

    @property
    def display_scale(self) -> tuple[float, float, float]:
        """Signed millimetres per voxel along (Z, Y, X) in the (S, P, L) world."""
        z, y, x = (s * d for s, d in zip(self._signs, self.spacing_mm, strict=True))
        return z, y, x

    @cached_property
    def display_translate(self) -> tuple[float, float, float]:
        """(S, P, L) of voxel (0, 0, 0) such that the centre of the volume is where it truly is.

        Exact for volumes along the world axes; an oblique volume is shown unrotated about its
        centre.
        """
        middle = (np.array(self.shape) - 1) / 2
        world = self.affine[:3, :3] @ middle + self.affine[:3, 3]
        centre = [s * world[w] for s, w in zip(VIEW_SIGN, VIEW_WORLD, strict=True)]
        half = [d * middle[a] for d, a in zip(self.display_scale, self.order, strict=True)]
        z, y, x = (float(c - h) for c, h in zip(centre, half, strict=True))
        return z, y, x

    @cached_property
    def is_oblique(self) -> bool:
        """Whether an axis of the volume leaves its world axis."""
        along = [self._cosines[w, a] for w, a in zip(VIEW_WORLD, self.order, strict=True)]
        return bool(np.min(np.abs(along)) < np.sqrt(1 - OBLIQUE_COSINE**2))

    @cached_property
    def tilt_degrees(self) -> float:
        """Largest angle between an axis of the volume and its world axis."""
        along = [self._cosines[w, a] for w, a in zip(VIEW_WORLD, self.order, strict=True)]
        return float(np.degrees(np.arccos(np.clip(np.min(np.abs(along)), 0, 1))))

    @property
    def axcodes(self) -> str:
        """Where the file axes point, nearest letter each: ``"RAS"``, ``"PIR"``, ..."""
        letters = [""] * 3
        for world, axis in zip(VIEW_WORLD, self.order, strict=True):
            letters[axis] = CODES[world][int(self._cosines[world, axis] < 0)]
        return "".join(letters)

    def same_space(self, other: Geometry) -> bool:
        """Whether shape and affine are equal, bit for bit."""
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))
