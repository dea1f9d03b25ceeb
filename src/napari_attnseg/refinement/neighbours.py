"""Offsets of a pixel's neighbours, and the windows in which they exist.

Offsets are ordered ring by ring (ring r = Chebyshev distance r), row-major inside a ring, so a
3x3 neighbourhood reads TL, T, TR, L, R, BL, B, BR.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import product

from napari_attnseg.errors import InputError

Offset = tuple[int, ...]
Window = tuple[slice, ...]


@cache
def ring(radius: int, ndim: int = 2) -> tuple[Offset, ...]:
    """All offsets at Chebyshev distance ``radius``: 8, 16, 24 in 2D, 26, 98, 218 in 3D."""
    reach = range(-radius, radius + 1)
    every = product(reach, repeat=ndim)
    return tuple(o for o in every if max(map(abs, o)) == radius)


@cache
def rings(kernel: int, ndim: int = 2) -> tuple[tuple[Offset, ...], ...]:
    """The rings of a ``kernel`` x ``kernel`` neighbourhood, the inner first."""
    if kernel < 3 or kernel % 2 == 0:
        raise InputError(f"got kernel={kernel}, expected an odd number from 3 on (3, 5, 7)")
    return tuple(ring(radius, ndim) for radius in range(1, kernel // 2 + 1))


@cache
def straight_rings(kernel: int) -> tuple[tuple[Offset, ...], ...]:
    """The rings of 2D inside a slice of a volume; ring 1 begins with the pixel straight below
    (offset -1, 0, 0) and ends with the one straight above."""
    flat = [tuple((0, *offset) for offset in ring) for ring in rings(kernel)]
    return ((-1, 0, 0), *flat[0], (1, 0, 0)), *flat[1:]


@lru_cache(maxsize=1024)
def windows(offset: Offset, shape: tuple[int, ...]) -> tuple[Window, Window]:
    """``(here, there)``: the pixels p whose neighbour p + offset lies inside, and those neighbours.

    ``shape``: the spatial sizes. Both windows have the same sizes (0 where nothing is left) and
    begin with full slices over batch and channels.
    """
    here: list[slice] = [slice(None), slice(None)]
    there: list[slice] = [slice(None), slice(None)]
    for o, n in zip(offset, shape, strict=True):
        start, stop = max(0, -o), max(min(n, n - o), max(0, -o))
        here.append(slice(start, stop))
        there.append(slice(start + o, stop + o))
    return tuple(here), tuple(there)
