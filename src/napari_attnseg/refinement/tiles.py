"""Tiles with a halo, and how large they may be: propagation in parts is exact.

One iteration carries an answer ``reach`` pixels, so T of them computed on a tile with a halo of
T * reach pixels give in its inside what the whole image gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

Window = tuple[slice, ...]
LEAST = 32
"""Tiles are not made smaller, however little memory there is: they would be halo alone."""


def tiles(shape: tuple[int, ...], side: int, halo: int) -> Iterator[tuple[Window, Window, Window]]:
    """(tile in the image, tile with halo in the image, tile inside its halo), batch included."""
    full = (slice(None), slice(None))
    for corner in product(*(range(0, n, side) for n in shape)):
        stop = [min(c + side, n) for c, n in zip(corner, shape, strict=True)]
        low = [max(c - halo, 0) for c in corner]
        high = [min(e + halo, n) for e, n in zip(stop, shape, strict=True)]
        inner = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
        outer = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        kept = tuple(slice(a - o, b - o) for a, b, o in zip(corner, stop, low, strict=True))
        yield (*full, *inner), (*full, *outer), (*full, *kept)


def largest_side(shape: tuple[int, ...], halo: int, pixel_bytes: int, budget: int) -> int | None:
    """The largest side for which a tile with its halo takes at most ``budget`` bytes at
    ``pixel_bytes`` a pixel; ``None`` when the whole image does. At least ``LEAST``."""

    def cost(side: int) -> int:
        return pixel_bytes * prod(min(side + 2 * halo, n) for n in shape)

    if pixel_bytes * prod(shape) <= budget:
        return None
    low, high = LEAST, max(*shape, LEAST + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low
