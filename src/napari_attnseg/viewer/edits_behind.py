"""A large change of labels on its way: tile by tile, so that the window stays awake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from napari_attnseg.viewer.journal_tiles import Key

LARGE = 64
"""Tiles of a change that is made over several turns of the window: more than some 50 ms."""
TURN_S = 0.012
"""Work in one turn, and one tile at least."""


class Behind:
    """The tiles that are still to be changed, by slice.

    ``change`` makes the change of one tile in the planes under the labels. Each tile is changed
    once: in its turn, or before anything else touches it.
    """

    def __init__(self, keys: Iterable[Key], change: Callable[[Key], None]) -> None:
        self._change = change
        self._left: dict[int, set[Key]] = {}
        for key in keys:
            self._left.setdefault(key[0], set()).add(key)

    def __bool__(self) -> bool:
        return bool(self._left)

    def __contains__(self, key: Key) -> bool:
        return key in self._left.get(key[0], ())

    def change(self, key: Key) -> None:
        """Change a tile that is still to be changed."""
        tiles = self._left[key[0]]
        tiles.remove(key)
        if not tiles:
            del self._left[key[0]]
        self._change(key)

    def of(self, z: int) -> list[Key]:
        """The tiles of slice ``z`` that are still to be changed."""
        return sorted(self._left.get(z, ()))

    def all(self) -> list[Key]:
        """All that are still to be changed."""
        return [key for z in sorted(self._left) for key in self.of(z)]

    def turn(self, near: int, settle: Callable[[Key], object]) -> None:
        """``settle`` for tiles from slice ``near`` outward, for as long as nobody notices."""
        until = time.perf_counter() + TURN_S
        for z in sorted(self._left, key=lambda z: abs(z - near)):
            for key in self.of(z):
                settle(key)
                if time.perf_counter() >= until:
                    return
