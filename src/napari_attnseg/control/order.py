"""In which order the slices of a volume are segmented: what is looked at comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

COARSE = (8, 4, 2)
"""A cut along another axis shows every eighth slice first, then every fourth, then every second."""


def following(slices: Iterable[int], z: int, axis: int = 0) -> tuple[int, ...]:
    """``slices`` in the order that serves who looks at slice ``z`` along view axis ``axis``.

    Axis 0: slice ``z``, then its neighbours outward. Axis 1 or 2 (the view cuts through all
    slices): coarse to fine, so that the cut fills evenly.
    """
    if axis == 0:
        return tuple(sorted(slices, key=lambda k: (abs(k - z), k)))
    return tuple(sorted(slices, key=lambda k: (_fineness(k), k)))


def _fineness(k: int) -> int:
    return next((level for level, step in enumerate(COARSE) if k % step == 0), len(COARSE))


class Pending:
    """Slices still to be done, each taken once, whatever the re-orderings in between."""

    def __init__(self, order: Iterable[int]) -> None:
        self._left = list(dict.fromkeys(order))[::-1]
        self._urgent = True
        self.total = len(self._left)

    def __len__(self) -> int:
        return len(self._left)

    @property
    def left(self) -> tuple[int, ...]:
        """What is left, the next one first."""
        return tuple(reversed(self._left))

    def take(self, cost: Callable[[int], int] | None = None) -> tuple[int, bool]:
        """The next slice, and whether somebody waits for just this one (it was asked for last).

        ``cost``: unless somebody waits, the first of those that cost least. Raises ``IndexError``
        when none is left.
        """
        urgent = self._urgent
        if cost is not None and not urgent and self._left:
            z = min(reversed(self._left), key=cost)
            self._left.remove(z)
        else:
            z = self._left.pop()
        self._urgent = False
        return z, urgent

    def reorder(self, z: int, axis: int = 0) -> None:
        """From now on as :func:`following` says."""
        self._left = list(following(self._left, z, axis))[::-1]
        self._urgent = axis == 0 and z in self._left[-1:]
