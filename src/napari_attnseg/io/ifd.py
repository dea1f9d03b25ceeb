"""Walk the chain of pages of a TIFF: a chain that leaves the file means that it was cut."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from napari_attnseg.errors import InputError

MAX_ENTRIES = 4096


def check_chain(path: Path) -> None:
    """Raise ``InputError`` when a page begins or ends outside the file (classic and BigTIFF)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order, big, offset = _start(file)
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise _cut(path, f"page {len(seen)} points back to an earlier one")
            seen.add(offset)
            found = _next(file, order, big, offset, size)
            if found is None:
                raise _cut(path, f"page {len(seen)} lies outside the file")
            offset = found


def _start(file: BinaryIO) -> tuple[str, bool, int]:
    head = file.read(16).ljust(16, b"\0")
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    offset = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    return order, big, int(offset)


def _next(file: BinaryIO, order: str, big: bool, offset: int, size: int) -> int | None:
    """Where the following page begins (0: this was the last), ``None`` when cut."""
    count_format, entry, next_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    head = struct.calcsize(order + count_format)
    if offset + head > size:
        return None
    file.seek(offset)
    (count,) = struct.unpack(order + count_format, file.read(head))
    if not 0 < count <= MAX_ENTRIES:
        return None
    file.seek(count * entry, 1)
    tail = file.read(struct.calcsize(order + next_format))
    if len(tail) < struct.calcsize(order + next_format):
        return None
    return int(struct.unpack(order + next_format, tail)[0])


def _cut(path: Path, detail: str) -> InputError:
    return InputError(f"{path.name} is damaged or cut short ({detail}); copy or download it again")
