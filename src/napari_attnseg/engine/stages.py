"""A chain of stages with chained keys and least-recently-used caches, limited by bytes.

A stage's key is the key of the stage before it plus the values it needs itself, so moving a
value wakes its own stage and those after it, nothing before.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import numpy as np


def bytes_of(value: Any) -> int:
    """Memory held by arrays and tensors in a value (tuples and dataclasses included)."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if hasattr(value, "element_size"):
        return int(value.element_size() * value.nelement())
    if isinstance(value, tuple | list):
        return sum(bytes_of(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return sum(bytes_of(getattr(value, f.name)) for f in fields(value))
    return 0


class Below(Protocol):
    """Where what leaves a cache may go on being kept (``disk_tier.DiskTier``)."""

    def get(self, key: Any) -> tuple[bool, Any]: ...
    def put(self, key: Any, value: Any) -> None: ...
    def clear(self) -> None: ...


class ByteCache:
    """Keeps the most recently used values whose sizes add up to at most ``limit`` bytes.

    ``below``: takes what has to leave, and is asked for what is not here.
    """

    def __init__(self, limit: int, below: Below | None = None) -> None:
        self.limit = limit
        self.below = below
        self.used = 0
        self._items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    def inputs(self) -> set[Hashable]:
        """The inputs of the chained keys that are here."""
        return {key[0] for key in self._items if isinstance(key, tuple)}

    def get(self, key: Hashable) -> tuple[bool, Any]:
        """``(True, value)`` and the value becomes the youngest, or ``(False, None)``."""
        if key not in self._items:
            found, value = self.below.get(key) if self.below is not None else (False, None)
            if found:
                self.put(key, value)
            return found, value
        self._items.move_to_end(key)
        return True, self._items[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        """Keep ``value``; the oldest values leave until the limit holds.

        A value larger than the limit is not kept here at all.
        """
        self.discard(key)
        size = bytes_of(value)
        if size > self.limit:
            self._leave(key, value)
            return
        self._items[key] = (value, size)
        self.used += size
        self._shrink()

    def resize(self, limit: int) -> None:
        """Keep at most ``limit`` bytes from now on."""
        self.limit = limit
        self._shrink()

    def discard(self, key: Hashable) -> None:
        """Forget one value if it is there."""
        _, size = self._items.pop(key, (None, 0))
        self.used -= size

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.used = 0
        if self.below is not None:
            self.below.clear()

    def _shrink(self) -> None:
        while self.used > self.limit:
            key, (value, size) = self._items.popitem(last=False)
            self.used -= size
            self._leave(key, value)

    def _leave(self, key: Hashable, value: Any) -> None:
        if self.below is not None:
            self.below.put(key, value)


@dataclass(frozen=True)
class Stage:
    """One step: ``run(previous_output, values) -> output``.

    ``needs``: names of the values that belong to this stage's key. ``cache``: where the output is
    kept, ``None`` when making it again is cheap or something later keeps it.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[Any, Mapping[str, Any]], Any]
    cache: ByteCache | None = None


class Chain:
    """Stages in order.

    ``woken`` lists the stages that ran in the last :meth:`ask`, ``counts`` all since creation
    (``counts`` may be shared with a chain that begins with the same stages).
    """

    def __init__(self, stages: tuple[Stage, ...], counts: Counter[str] | None = None) -> None:
        self.stages = stages
        self.woken: tuple[str, ...] = ()
        self.counts: Counter[str] = Counter() if counts is None else counts

    def keys(self, root: Hashable, values: Mapping[str, Any]) -> list[tuple[Hashable, ...]]:
        """The chained key of every stage; ``root`` identifies the input."""
        keys: list[tuple[Hashable, ...]] = []
        key: tuple[Hashable, ...] = (root,)
        for stage in self.stages:
            key = (*key, (stage.name, *(values[name] for name in stage.needs)))
            keys.append(key)
        return keys

    def ask(self, root: Hashable, values: Mapping[str, Any], upto: str | None = None) -> Any:
        """The output of stage ``upto`` (default: the last), from the youngest cached stage on."""
        last = self._index(upto)
        keys = self.keys(root, values)
        start, value = self._resume(keys, last)
        woken: list[str] = []
        for stage, key in zip(self.stages[start : last + 1], keys[start : last + 1], strict=True):
            value = stage.run(value, values)
            woken.append(stage.name)
            self.counts[stage.name] += 1
            if stage.cache is not None:
                stage.cache.put(key, value)
        self.woken = tuple(woken)
        return value

    def _index(self, name: str | None) -> int:
        if name is None:
            return len(self.stages) - 1
        return [stage.name for stage in self.stages].index(name)

    def _resume(self, keys: list[tuple[Hashable, ...]], last: int) -> tuple[int, Any]:
        for i in range(last, -1, -1):
            cache = self.stages[i].cache
            found, value = cache.get(keys[i]) if cache is not None else (False, None)
            if found:
                return i + 1, value
        return 0, None
