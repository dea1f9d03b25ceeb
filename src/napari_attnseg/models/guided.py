"""What the iterations of a refinement start from, and the memory of it for slices seen before."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Values = tuple[tuple[str, Any], ...]


@dataclass
class Guided:
    """Coarse logits ``start`` (B, K, H, W), ``affinity`` and ``attention`` as
    :class:`~napari_attnseg.refinement.Refinement` takes them."""

    start: Tensor
    affinity: Tensor
    attention: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        parts = (self.start, self.affinity, self.attention)
        return sum(p.element_size() * p.nelement() for p in parts if p is not None)


class GuidedCache:
    """Guidance of the inputs seen last: together at most ``limit`` bytes, but always the last.

    An entry lives no longer than the features it was made from (it holds no reference to them):
    who forgets a slice's features forgets its guidance.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[tuple[int, Values], tuple[weakref.ref[Any], Guided]]
        self._items = OrderedDict()

    def __len__(self) -> int:
        self._drop_dead()
        return len(self._items)

    @property
    def used(self) -> int:
        """Bytes of all that is kept."""
        return sum(guided.nbytes for _, guided in self._items.values())

    def get(self, features: Any, values: Values) -> Guided | None:
        """What was kept for the very object ``features`` and these values."""
        self._drop_dead()  # the number of an object that is gone may be given again
        found = self._items.get((id(features), values))
        if found is None:
            return None
        self._items.move_to_end((id(features), values))
        return found[1]

    def put(self, features: Any, values: Values, guided: Guided) -> None:
        """Keep ``guided``; the oldest leave until the limit holds."""
        self._drop_dead()
        self._items[(id(features), values)] = (weakref.ref(features), guided)
        while len(self._items) > 1 and self.used > self.limit:
            self._items.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()

    def _drop_dead(self) -> None:
        for key in [k for k, (alive, _) in self._items.items() if alive() is None]:
            del self._items[key]
