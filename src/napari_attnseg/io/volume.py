"""A volume: pixels as they lie in the file, and the way to view order and back.

A 2D image is a volume of one slice, so there is no second code path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit along x and y as a TIFF stores them; kept for the export."""

    x: float
    y: float
    unit: str = "NONE"


@dataclass(frozen=True, eq=False)
class Volume:
    """Pixels and their space.

    ``data``: file order, (I, J, K) or (I, J) for NIfTI, (Y, X) or (Z, Y, X) otherwise; with
    ``rgb`` a last axis of 3. ``geometry``: ``None`` when the file has no space. ``header``: the
    NIfTI header (348 or 540 bytes) for the export. ``pixel_mm``: size along (Z, Y, X) when a
    file without geometry knows it. ``note``: what reading changed or left out, in words.
    ``assumed``: the space that was taken for want of a stated one, in words (empty: it is stated).
    ``kind``: ``"dicom"``, ``"zarr"``, ``"nrrd"`` or ``"meta"`` where the source is one of these.
    ``part``: what was chosen of a source of several volumes, as ``read_image`` takes it.
    ``slices``: of DICOM, the file and the frame behind every slice (``None``: it is missing).
    ``turned``: axes of the view that run against those of the file, as another reader turned them.
    ``levels``: coarser copies of ``view``, lazily read, the finest first. ``labels``: the source
    says of itself that its numbers are ids.
    """

    data: np.ndarray
    geometry: Geometry | None = None
    rgb: bool = False
    path: Path | None = None
    header: bytes | None = None
    note: str = ""
    pixel_mm: tuple[float, float, float] | None = None
    resolution: Resolution | None = None
    assumed: str = ""
    kind: str = ""
    part: int | str | None = None
    slices: tuple[tuple[Path, int] | None, ...] = ()
    levels: tuple[np.ndarray, ...] = ()
    labels: bool = False
    turned: tuple[bool, bool, bool] = (False, False, False)

    @property
    def lazy(self) -> bool:
        """Whether pixels are read only where they are asked for (``data`` is a dask array)."""
        return not isinstance(self.data, np.ndarray)

    @property
    def part_of_grid(self) -> bool:
        """Whether this is a DICOM-SEG: a mask that may hold a part of its image's slices."""
        return self.kind == "dicom" and self.labels

    @classmethod
    def from_array(cls, array: np.ndarray, rgb: bool | None = None) -> Volume:
        """A volume without a file: (Y, X), (Z, Y, X), (Y, X, C) or (Z, Y, X, C).

        ``rgb=None`` takes a last axis of 3 or 4 for colour when the others are longer; a fourth
        channel (alpha) is dropped. Raises ``InputError`` for other shapes.
        """
        data = np.asarray(array)
        if rgb is None:
            rgb = data.ndim in (3, 4) and data.shape[-1] in (3, 4) and min(data.shape[-3:-1]) > 4
        spatial = data.ndim - int(rgb)
        if spatial not in (2, 3) or data.size == 0 or (rgb and data.shape[-1] not in (3, 4)):
            raise InputError(
                f"got an array of shape {data.shape}; expected (Y, X) or (Z, Y, X), with a last "
                "axis of 3 or 4 for colour, none of them empty"
            )
        if data.dtype == bool:
            data = data.astype(np.uint8)
        return cls(data[..., :3] if rgb else data, rgb=rgb)

    @property
    def view(self) -> np.ndarray:
        """(Z, Y, X) or, for colour, (Z, Y, X, 3): a transposed view, no copy."""
        spatial = self.data.ndim - int(self.rgb)
        if self.geometry is None:
            return self.turn(self.data[None] if spatial == 2 else self.data)
        data = self.data
        if spatial == 2:
            data = data.reshape(*data.shape[:2], 1, *data.shape[2:])
        order = (*self.geometry.order, *((3,) if self.rgb else ()))
        return self.turn(np.transpose(data, order))

    def turn(self, array_ZYX: np.ndarray) -> np.ndarray:
        """From the file's view to the layer's, and back: :attr:`turned` axes reversed."""
        axes = tuple(axis for axis in range(3) if self.turned[axis])
        return np.flip(array_ZYX, axes) if axes else array_ZYX

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = self.view.shape[:3]
        return z, y, x

    def to_file_order(self, array_ZYX: np.ndarray) -> np.ndarray:
        """The inverse of :attr:`view` for an array of one value per voxel (labels, maps)."""
        if array_ZYX.shape[:3] != self.shape:
            raise InputError(
                f"got an array of {array_ZYX.shape}, but the image is {self.shape} (Z, Y, X); "
                "use the mask made from this image"
            )
        array_ZYX = self.turn(array_ZYX)
        if self.geometry is not None:
            rest = range(3, array_ZYX.ndim)
            array_ZYX = np.transpose(array_ZYX, (*self.geometry.inverse_order, *rest))
        if self.data.ndim - int(self.rgb) == 3:
            return array_ZYX
        return array_ZYX[0] if self.geometry is None else array_ZYX[:, :, 0]

    @property
    def flips(self) -> tuple[bool, bool, bool]:
        """View axes that must be reversed to run S+, P+, L+; none without a geometry."""
        if self.geometry is None:
            return False, False, False
        z, y, x = (a != b for a, b in zip(self.geometry.flips, self.turned, strict=True))
        return z, y, x

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along (Z, Y, X); empty when the file does not know it."""
        if self.geometry:
            return self.geometry.spacing_mm
        return self.pixel_mm or ()

    @property
    def display_scale(self) -> tuple[float, float, float]:
        """Signed scale of the (Z, Y, X) axes for napari; 1 when unknown."""
        scale = self.geometry.display_scale if self.geometry else self.pixel_mm or (1.0, 1.0, 1.0)
        z, y, x = (-s if turned else s for s, turned in zip(scale, self.turned, strict=True))
        return z, y, x

    @property
    def display_translate(self) -> tuple[float, float, float]:
        """Translation of voxel (0, 0, 0) for napari."""
        start = self.geometry.display_translate if self.geometry else (0.0, 0.0, 0.0)
        if not any(self.turned):
            return start
        ends = zip(start, self.display_scale, self.shape, self.turned, strict=True)
        z, y, x = (at - step * (n - 1) if turned else at for at, step, n, turned in ends)
        return z, y, x
