"""A second tier of a cache, on disk: what left memory comes back with exactly its bits.

One raw file per value, all its tensors one after the other; what they are and how they belong
together stays in memory, so nothing has to be parsed and nothing unpickled. A value comes back as
a private map of its file: what nobody looks at is never read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Key = tuple[Hashable, ...]
ALIGN = 64
"""Bytes to which every tensor's beginning is rounded up in its file."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Kept:
    """Slices whose heavy stages are kept, the bytes they take in ``memory`` and on ``disk`` (of
    at most ``limit``); ``problem``: why the disk takes no more."""

    slices: int
    memory: int
    disk: int
    limit: int
    problem: str = ""


@dataclass(frozen=True)
class _Leaf:
    """Where a tensor lies: ``order`` are its dimensions from the slowest to the fastest, so that
    its layout in memory comes back as well (libraries choose their kernels by it)."""

    offset: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Entry:
    path: Path
    size: int
    frame: Any


class DiskTier:
    """Keeps values whose files add up to at most ``limit`` bytes in a folder of its own.

    Keys are the chained keys of :class:`~napari_attnseg.engine.stages.Chain`: the input first,
    then the stages with their values. Plain least-recently-used would keep nothing of a volume
    that is larger than the limit: every pass would push out what the next one needs first. So a
    newcomer pushes out what was made with other values than those in use now, longest unused
    first, then later stages (they are made again from earlier ones); where neither is there it
    is not kept.

    Files left by a process that died are removed. ``problem``: why nothing more is kept, in
    words.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit, self.used, self.problem = limit, 0, ""
        self._items: OrderedDict[Key, _Entry] = OrderedDict()
        self._values_now: dict[int, Hashable] = {}
        self._sweep(folder)
        self.folder = folder / f"tier-{os.getpid()}-{next(_numbers)}"
        self.folder.mkdir(parents=True)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def inputs(self) -> set[Hashable]:
        """The inputs of which anything is kept."""
        return {key[0] for key in self._items}

    def get(self, key: Key) -> tuple[bool, Any]:
        """``(True, value)``, or ``(False, None)``."""
        entry = self._items.get(key)
        if entry is None:
            return False, None
        try:
            whole = torch.from_file(str(entry.path), False, entry.size, dtype=torch.uint8)
        except (RuntimeError, OSError):  # somebody tidied up
            self._drop(key)
            return False, None
        self._items.move_to_end(key)
        self._values_now[len(key)] = key[1:]
        return True, _thaw(entry.frame, whole)

    def put(self, key: Key, value: Any) -> None:
        """Keep ``value`` if there is room (see above); a known key keeps what it has."""
        self._values_now[len(key)] = key[1:]
        if key in self._items or self.problem:
            return
        tensors: list[tuple[int, Tensor]] = []
        try:
            frame, size = _freeze(value, tensors, 0)
        except TypeError:  # a foreign model's own kind of thing
            return
        if size == 0 or not self._make_room(key, size):
            return
        path = self.folder / f"{next(_numbers)}.raw"
        try:
            _write(path, tensors, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            self.problem = f"{error.strerror or error}"
            return
        self._items[key] = _Entry(path, size, frame)
        self.used += size

    def clear(self) -> None:
        """Forget everything, also that the disk was full."""
        self.problem = ""
        for key in list(self._items):
            self._drop(key)
        self._values_now.clear()

    def close(self) -> None:
        """Forget everything, the folder too."""
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside -------------------------------------------------------------------------------

    def _make_room(self, key: Key, size: int) -> bool:
        """Whether ``size`` bytes fit; nothing is pushed out for one that cannot."""
        need = self.used + size - self.limit
        if need <= 0:
            return True
        former = [k for k in self._items if self._values_now.get(len(k)) != k[1:]]
        later = [
            k for k in self._items if len(k) > len(key) and self._values_now.get(len(k)) == k[1:]
        ]
        victims = []
        for other in (*former, *later):
            victims.append(other)
            need -= self._items[other].size
            if need <= 0:
                break
        if need > 0:
            return False
        for other in victims:
            self._drop(other)
        return True

    def _drop(self, key: Key) -> None:
        entry = self._items.pop(key)
        self.used -= entry.size
        with contextlib.suppress(OSError):  # Windows: while it is mapped; goes with the folder
            entry.path.unlink(missing_ok=True)

    @staticmethod
    def _sweep(folder: Path) -> None:
        for old in folder.glob("tier-*") if folder.is_dir() else ():
            if old.name.split("-")[1] != str(os.getpid()):
                shutil.rmtree(old, ignore_errors=True)


def _freeze(value: Any, tensors: list[tuple[int, Tensor]], end: int) -> tuple[Any, int]:
    """``value`` with places instead of tensors, and where the file ends; ``tensors`` grows."""
    if isinstance(value, Tensor):
        order = tuple(sorted(range(value.ndim), key=lambda d: -value.stride(d)))
        dense = value.detach().permute(order).contiguous()
        tensors.append((end, dense))
        leaf = _Leaf(end, tuple(value.shape), order, value.dtype, value.device)
        size = dense.element_size() * dense.nelement()
        return leaf, end + -(-size // ALIGN) * ALIGN
    if type(value) in (tuple, list):
        parts = []
        for item in value:
            part, end = _freeze(item, tensors, end)
            parts.append(part)
        return type(value)(parts), end
    if is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for f in fields(value):
            changed[f.name], end = _freeze(getattr(value, f.name), tensors, end)
        return replace(value, **changed), end
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"no file for {type(value)}")
    return value, end


def _thaw(frame: Any, whole: Tensor) -> Any:
    """The inverse of :func:`_freeze` over the bytes of the file."""
    if isinstance(frame, _Leaf):
        turned = tuple(frame.shape[d] for d in frame.order)
        count = int(torch.Size(turned).numel())
        size = count * torch.empty(0, dtype=frame.dtype).element_size()
        flat = whole[frame.offset : frame.offset + size].view(frame.dtype)
        back = [frame.order.index(d) for d in range(len(frame.order))]
        return flat.view(turned).permute(back).to(frame.device)
    if type(frame) in (tuple, list):
        return type(frame)(_thaw(item, whole) for item in frame)
    if is_dataclass(frame) and not isinstance(frame, type):
        return replace(
            frame, **{f.name: _thaw(getattr(frame, f.name), whole) for f in fields(frame)}
        )
    return frame


def _write(path: Path, tensors: list[tuple[int, Tensor]], size: int) -> None:
    with open(path, "wb") as file:
        for offset, tensor in tensors:
            file.seek(offset)
            flat = tensor.cpu().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
        file.truncate(size)
