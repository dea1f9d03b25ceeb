"""Slices that are still to be refined, one question after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Walk:
    """Asks for one slice at a time; live questions may come between, newest first.

    ``ask``: called with the slice that is next.
    """

    def __init__(self, ask: Callable[[int], object]) -> None:
        self._ask = ask
        self._todo: list[int] = []
        self.total = 0

    def __bool__(self) -> bool:
        return bool(self._todo)

    @property
    def done(self) -> int:
        """Slices that are finished."""
        return self.total - len(self._todo)

    def begin(self, order: Sequence[int]) -> None:
        """Walk over these slices in this order; a former walk is forgotten."""
        self._todo, self.total = list(order), len(order)
        self._go_on()

    def answered(self, z: int) -> bool:
        """Slice ``z`` is refined; true when it was the last one of the walk."""
        was = bool(self._todo)
        self._todo = [k for k in self._todo if k != z]
        self._go_on()
        return was and not self._todo

    def stop(self) -> None:
        """Ask for no more slices."""
        self._todo = []

    def _go_on(self) -> None:
        """Asked anew after every answer: a live question may have taken this one's place."""
        if self._todo:
            self._ask(self._todo[0])
