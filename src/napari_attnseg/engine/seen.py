"""What one forward of a network sees of an image: a slice, or one window of a volume.

Axes are (rows, columns) of a slice and (slices, rows, columns) of a window. A position counts in
*view* order, as the image lies; a working position in the standing and at the size in which the
network works on the whole image.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_attnseg.engine.predict import MapScale, place_axis
from napari_attnseg.engine.windows import Windows


@dataclass(frozen=True)
class Seen:
    """``key`` names the part; ``size`` of the image, ``work``: the same in working positions;
    ``first`` working position of the part and its ``sides``, ``padded`` the sides that the network
    fills them up to; ``flips``: axes that are reversed before the network."""

    key: Hashable
    size: tuple[int, ...]
    work: tuple[int, ...]
    first: tuple[int, ...]
    sides: tuple[int, ...]
    padded: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def slice(
        cls,
        z: int,
        size: tuple[int, ...],
        work: tuple[int, ...],
        padded: tuple[int, ...],
        flips: tuple[bool, ...],
    ) -> Seen:
        """All of slice ``z``."""
        return cls(z, size, work, (0,) * len(size), work, padded, flips)

    @classmethod
    def window(
        cls,
        at: tuple[int, int, int],
        windows: Windows,
        padded: tuple[int, ...],
        flips: tuple[bool, ...],
    ) -> Seen:
        """Of a volume the window that weighs most in the answer of voxel ``at``; ``padded``: the
        sides that a window is filled up to."""
        work = windows.working
        whole = cls((), windows.shape, work, (0, 0, 0), work, work, flips)
        first = windows.nearest(whole.working(at))
        return replace(whole, key=first, first=first, sides=windows.window, padded=padded)

    def working(self, at: Sequence[int]) -> tuple[float, ...]:
        """Centre of view position ``at`` in working positions."""
        return tuple(self._working(axis, position) for axis, position in enumerate(at))

    def fraction(self, at: Sequence[int]) -> tuple[float, ...]:
        """Centre of view position ``at`` as fractions of the network's padded input."""
        return tuple(
            (centre - first) / padded
            for centre, first, padded in zip(self.working(at), self.first, self.padded, strict=True)
        )

    def laid(self, values: torch.Tensor) -> tuple[np.ndarray, MapScale, tuple[float, float] | None]:
        """A map (..., *grid) that covers the padded input, as an array in view order; where it lies
        on the slices of the image, and along them (``None`` for a part that is a slice).

        Behind a window lies more of the image, which the network did not see: cells that are
        filled up as a whole are left out there.
        """
        axes = len(self.size)
        found, parts = [], []
        of = (self.size, self.work, self.padded, values.shape[-axes:], self.flips)
        for size, work, padded, cells, flipped, first, side in zip(
            *of, self.first, self.sides, strict=True
        ):
            kept = -(-side * cells // padded) if axes == 3 else cells
            covered = padded * kept / cells
            found.append(place_axis(size, work, covered, kept, flipped, first))
            parts.append(slice(kept - 1, None, -1) if flipped else slice(kept))
        back = np.ascontiguousarray(values.detach().cpu().numpy()[(..., *parts)])
        (rows, top), (cols, left) = found[-2:]
        grid = (back.shape[-2], back.shape[-1])
        return back, MapScale((rows, cols), (top, left), grid), found[0] if axes == 3 else None

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Positions of the image, along each axis (first, after the last), whose centres lie in
        the part."""
        found = []
        for n, w, first, side, flipped in zip(
            self.size, self.work, self.first, self.sides, self.flips, strict=True
        ):
            ends = [int(np.ceil(edge * n / w - 0.5)) for edge in (first, first + side)]
            low, high = (min(max(end, 0), n) for end in ends)
            found.append((n - high, n - low) if flipped else (low, high))
        return tuple(found)

    @property
    def words(self) -> str:
        """Of a window, for people: what its maps are of; empty of a slice."""
        if len(self.size) == 2:
            return ""
        sides = " x ".join(map(str, self.sides))
        if self.sides == self.work:
            return f"Volumes: this 3D model sees the scan whole ({sides} voxels)."
        return (
            f"Volumes over one window of this 3D model ({sides} voxels), the one that weighs most "
            f"where you look: {self.where}."
        )

    @property
    def where(self) -> str:
        """Which positions of the image a window covers."""
        (z, z_end), (y, y_end), (x, x_end) = self.spans
        return f"slices {z} to {z_end - 1}, rows {y} to {y_end - 1}, columns {x} to {x_end - 1}"

    def _working(self, axis: int, position: int) -> float:
        """Centre of a view position in working positions."""
        n, w = self.size[axis], self.work[axis]
        at = n - 1 - position if self.flips[axis] else position
        return (at + 0.5) * w / n
