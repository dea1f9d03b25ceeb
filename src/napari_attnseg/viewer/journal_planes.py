"""What the model says and what is held by hand: the two planes under a labels layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.journal import Page
from napari_attnseg.io.runs import pack, unpack
from napari_attnseg.viewer.journal_tiles import (
    HeldTiles,
    Key,
    box,
    ids_of,
    is_held,
    tiles_of,
    with_held,
)

MODEL, HELD = 0, 1
"""The two planes in a page."""


class Planes:
    """``model`` (Z, Y, X) uint8, ``held`` by tiles, and what is shown of both: the second over
    the first. ``answered``: slices that the model has said anything about."""

    def __init__(self, shape: tuple[int, int, int], model: npt.NDArray[np.uint8]) -> None:
        self.shape = shape
        self.model = np.asarray(model)  # parts of a plain array are cut out ten times as fast
        self.held = HeldTiles(shape)
        self.answered: set[int] = set()

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """Where slice ``z`` is held by hand, (Y, X)."""
        found = np.zeros(self.shape[1:], bool)
        for key in self.held.keys_of(z):
            found[box(key, self.shape)[1:]] = is_held(self.held.codes(key))
        return found

    def shown(self, z: int) -> npt.NDArray[Any]:
        """Slice ``z`` as it is to be seen (a view of the model where nothing is held); int64
        where ids beyond 255 are held, else uint8."""
        keys = tuple(self.held.keys_of(z))
        if not keys:
            return self.model[z]
        seen = np.array(self.model[z])
        for key in keys:
            place = box(key, self.shape)[1:]
            tile = over(seen[place], self.held.codes(key))
            seen = seen.astype(np.promote_types(seen.dtype, tile.dtype), copy=False)
            seen[place] = tile
        return seen

    def tile(self, key: Key) -> npt.NDArray[Any]:
        """A tile as it is to be seen."""
        under = self.model[box(key, self.shape)]
        return over(under, self.held.codes(key)) if self.held.packed(key) else under

    def hold(self, key: Key, where: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> int:
        """Hold ``values`` in a tile ``where`` they are true; how many pixels these are."""
        self.held.put(key, with_held(self.held.codes(key), where, values))
        return int(np.count_nonzero(where))

    def packed(self, page: Page) -> bytes:
        """A tile as it is now: uint8 of the model, or codes of the held pixels (may be empty)."""
        plane, key = page
        return pack(self.model[box(key, self.shape)]) if plane == MODEL else self.held.packed(key)

    def put_packed(self, page: Page, data: bytes) -> None:
        """Replace a tile. Raises ``ValueError`` for one that does not fit."""
        plane, key = page
        if not 0 <= key[0] < self.shape[0] or key not in tiles_of(key[0], self.shape):
            raise ValueError(f"tile {key} lies outside {self.shape}")
        if plane == HELD:
            self.held.put_packed(key, data)
            return
        place = box(key, self.shape)
        self.model[place] = unpack(data, self.model[place].shape, np.uint8) if data else 0
        self.answered.add(key[0])

    def pages(self) -> dict[Page, bytes]:
        """All tiles that hold anything, packed."""
        found: dict[Page, bytes] = {
            (HELD, key): self.held.packed(key) for key in self.held.everywhere()
        }
        for z in sorted(self.answered):
            for key in tiles_of(z, self.shape) if self.model[z].any() else ():
                found[MODEL, key] = self.packed((MODEL, key))
        return found


def over(model: npt.NDArray[Any], codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The held pixels over what the model says."""
    return np.where(is_held(codes), ids_of(codes), model)
