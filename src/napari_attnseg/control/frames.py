"""Frames on the pipe between window and engine: a length, then so many bytes. Nothing else.

Standard library only: both sides of the process boundary import this module.
"""

from __future__ import annotations

import struct
from typing import IO

MAX_FRAME = 1 << 28
"""Bytes; a longer frame can only be noise on the pipe."""


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Send one frame whole: 4-byte little-endian length, then the payload."""
    view = memoryview(struct.pack("<I", len(payload)) + payload)
    while view:  # a raw stream may take a part only
        view = view[stream.write(view) :]
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame, or ``None`` at the end of the stream (or in the middle of a frame)."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = struct.unpack("<I", head)[0]
    if size > MAX_FRAME:
        return None
    body = stream.read(size)
    return body if len(body) == size else None
