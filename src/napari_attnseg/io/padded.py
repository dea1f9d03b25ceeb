"""Gzip files with zeros behind their end, as tapes and block devices leave them.

Python's reader steps over such a padding byte by byte: a quarter of a minute for 50 MB, of which
nothing is ever wanted.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, Any, cast

PIECE = 1 << 20
LEFT = 64
"""Zeros that stay: a gzip file itself may end in some (checksum and length of what it holds)."""


def open_gzip(path: Path) -> IO[bytes]:
    """The unpacked bytes of a gzip file."""
    end = end_of(path)
    if end is None:
        return cast(IO[bytes], gzip.open(path))
    return cast(IO[bytes], _Packed(path, end))


def end_of(path: Path) -> int | None:
    """Where the padding of a file begins, but for :data:`LEFT` zeros; ``None`` without any."""
    with path.open("rb", buffering=0) as file:
        size = end = file.seek(0, io.SEEK_END)
        step = 2 * LEFT  # nearly every file is known by its last bytes
        while end:
            begin = max(0, end - step)
            file.seek(begin)
            kept = file.read(end - begin).rstrip(b"\0")
            end, step = begin + len(kept), PIECE
            if kept:
                break
    return end + LEFT if size - end > LEFT else None


class _Begin(io.RawIOBase):
    """The first ``end`` bytes of a file."""

    def __init__(self, path: Path, end: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._end = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._end - self._file.tell())
        found = self._file.read(min(len(buffer), left))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Packed(gzip.GzipFile):
    def __init__(self, path: Path, end: int) -> None:
        self._begin = io.BufferedReader(_Begin(path, end))
        super().__init__(fileobj=self._begin, mode="rb")

    def close(self) -> None:
        super().close()
        self._begin.close()
