"""Refuse what cannot be right, or cannot fit, before any memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from napari_attnseg.errors import InputError

MAX_RATIO = 4200
"""No codec read here packs more bytes into one: deflate reaches 1032, LZW of a GIF about 2730."""
SLACK = 1 << 20
"""Bytes that any file may claim, however small it is."""


def readable_bytes(count: float) -> str:
    """``1536`` as ``"1.5 KB"``."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1024 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


@contextmanager
def steady(path: Path) -> Iterator[None]:
    """Nothing that was read inside counts when the file changed meanwhile.

    Header and pixels are read one after the other: of two files that follow each other under one
    name they would make a third. Raises ``InputError`` when the file was replaced, written to or
    removed, also where that made the reading itself fail.
    """
    before = identity(path)
    try:
        yield
    except (InputError, OSError) as error:
        if identity(path) != before:
            raise _changed(path) from error
        raise
    if identity(path) != before:
        raise _changed(path)


def identity(path: Path) -> tuple[int, ...] | None:
    """What tells one file from its successor under the same name; ``None``: there is none."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def _changed(path: Path) -> InputError:
    return InputError(
        f"{path.name} was replaced, changed or removed while it was being read; "
        "open it again when the other program is done with it"
    )


def check_claim(path: Path, need: int, ratio: float = MAX_RATIO, memory: bool = True) -> None:
    """Raise ``InputError`` when ``need`` bytes of pixels cannot come from this file, or would not
    fit into ``memory`` (false: they are not to be held there)."""
    size = path.stat().st_size
    if need > size * ratio + (SLACK if ratio > 1 else 0):
        raise InputError(
            f"{path.name} claims {readable_bytes(need)} of pixels but has only "
            f"{readable_bytes(size)}: the file is truncated or its header is damaged; "
            "copy or download it again"
        )
    if memory:
        check_memory(path, need)


def check_memory(path: Path, need: int) -> None:
    """Raise ``InputError`` when ``need`` bytes do not fit into memory."""
    free = psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{path.name} needs {readable_bytes(need)} of memory but only "
            f"{readable_bytes(free)} are free; cut or downsample it first"
        )


def check_numbers(path: Path, data: np.ndarray) -> None:
    """Raise ``InputError`` for empty arrays, complex values, NaN and infinity."""
    if data.size == 0:
        raise InputError(
            f"{path.name} has no pixels (its size is {data.shape}); export the image again"
        )
    if data.dtype.kind not in "biuf":
        raise InputError(
            f"{path.name} holds {data.dtype} values; expected real numbers "
            "(save the magnitude of complex data)"
        )
    if data.dtype.kind != "f":
        return
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise InputError(not_numbers(path, bad, data.size))


def not_numbers(path: Path, bad: int, size: int) -> str:
    """The sentence about ``bad`` of ``size`` values."""
    return (
        f"{path.name} has {bad} of {size} values that are not numbers (NaN or infinite); "
        "replace them first (for example by the lowest value of the image)"
    )
