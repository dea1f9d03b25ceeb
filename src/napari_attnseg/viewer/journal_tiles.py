"""Tiles of a labels volume, and the pixels that a person holds by hand, packed tile by tile.

A stroke costs what the tiles under it cost, whatever the size of the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.runs import item_bytes, pack, unpack

TILE = 256
"""Side of a tile in pixels; the last ones of a row or column are smaller."""
HOLDS = 256
"""A held pixel's code is this plus its class id; 0 is a pixel that is not held."""
_WIDE, _SIGN = np.uint64(1 << 63), np.uint64(1 << 62)
"""A tile with an id outside 0 to 255 has codes of 64 bits: the highest one is that of a held pixel,
the others are its id (two's complement)."""

Key = tuple[int, int, int]
"""Slice, row and column of a tile."""


def box(key: Key, shape: tuple[int, int, int]) -> tuple[int, slice, slice]:
    """Where a tile lies in (Z, Y, X)."""
    z, i, j = key
    y, x = i * TILE, j * TILE
    return z, slice(y, min(y + TILE, shape[1])), slice(x, min(x + TILE, shape[2]))


def tiles_of(z: int, shape: tuple[int, int, int]) -> list[Key]:
    """All tiles of slice ``z``."""
    rows, columns = -(-shape[1] // TILE), -(-shape[2] // TILE)
    return [(z, i, j) for i in range(rows) for j in range(columns)]


def tiles_under(item: Any, shape: tuple[int, int, int]) -> list[Key] | None:
    """The tiles that a step of napari's history touches; ``None`` when it cannot be told.

    ``item`` is what the ``paint`` event of a Labels layer carries: a list of boxes with a
    ``slice_key``, or of tuples whose first is a tuple of index arrays.
    """
    found: set[Key] = set()
    try:
        for atom in item:
            key = getattr(atom, "slice_key", None)
            found.update(_in_box(key, shape) if key is not None else _at(atom[0], shape))
    except (TypeError, ValueError, IndexError, AttributeError):
        return None
    return sorted(found)


def _in_box(key: tuple[slice | int, ...], shape: tuple[int, int, int]) -> Iterator[Key]:
    whole = (slice(None),) * (3 - len(key)) + tuple(key)
    spans = [
        range(*part.indices(n)) if isinstance(part, slice) else range(int(part), int(part) + 1)
        for part, n in zip(whole, shape, strict=True)
    ]
    if all(spans):
        rows, columns = (range(s[0] // TILE, s[-1] // TILE + 1) for s in spans[1:])
        yield from ((z, i, j) for z in spans[0] for i in rows for j in columns)


def _at(where: tuple[Any, ...], shape: tuple[int, int, int]) -> Iterator[Key]:
    parts = [np.asarray(part).reshape(-1) for part in where]
    z, y, x = np.broadcast_arrays(*([np.zeros(1, np.int64)] * (3 - len(parts)) + parts))
    rows, columns = -(-shape[1] // TILE), -(-shape[2] // TILE)
    numbers = np.unique((z.astype(np.int64) * rows + y // TILE) * columns + x // TILE)
    for number in numbers:
        rest, j = divmod(int(number), columns)
        yield (*divmod(rest, rows), j)


class HeldTiles:
    """Which pixels of a volume (Z, Y, X) are held by hand, and with which class id.

    Only tiles with held pixels take memory, packed: usually a few kB each.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._slices: dict[int, dict[Key, tuple[bytes, int]]] = {}
        self.count = 0

    def everywhere(self) -> list[Key]:
        """All tiles with held pixels."""
        return [key for tiles in self._slices.values() for key in tiles]

    def keys_of(self, z: int) -> Iterable[Key]:
        """The tiles of slice ``z`` with held pixels."""
        return tuple(self._slices.get(z, ()))

    def packed(self, key: Key) -> bytes:
        """A tile as it is kept; empty when nothing in it is held."""
        return self._slices.get(key[0], {}).get(key, (b"", 0))[0]

    def codes(self, key: Key) -> npt.NDArray[Any]:
        """The codes of a tile (see ``HOLDS``), a copy."""
        return codes_of(self.packed(key), key, self.shape)

    def put(self, key: Key, codes: npt.NDArray[Any]) -> None:
        """Replace a tile."""
        held = int(np.count_nonzero(codes))
        self.put_packed(key, pack(codes) if held else b"", held)

    def put_packed(self, key: Key, data: bytes, held: int | None = None) -> None:
        """Replace a tile by one that is packed already; ``held``: its held pixels, if known."""
        if held is None:
            held = int(np.count_nonzero(codes_of(data, key, self.shape))) if data else 0
        tiles = self._slices.setdefault(key[0], {})
        self.count += held - tiles.pop(key, (b"", 0))[1]
        if held:
            tiles[key] = (data, held)
        if not tiles:
            del self._slices[key[0]]

    def clear(self) -> None:
        """Nothing is held."""
        self._slices.clear()
        self.count = 0


def codes_of(data: bytes, key: Key, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """The codes of a packed tile, uint16 or uint64; raises ``ValueError`` when they do not fit."""
    _, rows, columns = box(key, shape)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    if not data:
        return np.zeros(size, np.uint16)
    return unpack(data, size, np.uint64 if item_bytes(data, size) == 8 else np.uint16)


def is_held(codes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where pixels are held."""
    return codes >= (HOLDS if codes.dtype == np.uint16 else _WIDE)


def ids_of(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The class ids of held pixels, uint8 or int64; others are anything."""
    if codes.dtype == np.uint16:
        return codes.astype(np.uint8)  # the low byte is the class
    low = codes & ~_WIDE
    return np.where(low & _SIGN, low | _WIDE, low).view(np.int64)


def with_held(
    codes: npt.NDArray[Any], where: npt.NDArray[np.bool_], ids: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """The codes with ``ids`` held ``where`` they are true; may be ``codes`` itself, changed."""
    new = ids[where]
    if codes.dtype == np.uint16:
        if ids.dtype == np.uint8 or not new.size or (new.min() >= 0 and new.max() < HOLDS):
            codes[where] = new.astype(np.uint16) + HOLDS
            return codes
        held = is_held(codes)
        codes = np.where(held, codes.astype(np.uint64) - HOLDS | _WIDE, np.uint64(0))
    codes[where] = new.astype(np.int64).view(np.uint64) | _WIDE
    return codes
