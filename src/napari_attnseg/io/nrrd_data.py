"""The voxels of a NRRD file: no more is unpacked than its header says, whatever is packed there."""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import MAX_RATIO, check_claim

PIECE = 1 << 22
LONGEST_HEADER = 1 << 26
GZIP, BZIP2, TEXT = ("gzip", "gz"), ("bzip2", "bz2"), ("ascii", "text", "txt")
BZIP2_RATIO = 50_000.0
"""bzip2 packs a long run of one value into next to nothing: 45,899 times at most."""
BEYOND = "more follows the voxels and is left out: the size in the header may be wrong"


def read_data(path: Path, header: dict[str, Any], kind: np.dtype) -> tuple[np.ndarray, list[str]]:
    """Voxels in file order (fastest axis first) and notes. ``kind``: type as stored.

    Raises ``InputError`` for claims that the file cannot hold or memory does not, before anything
    is unpacked; ``ValueError``, ``OSError``, ``EOFError`` and ``zlib.error`` for damage.
    """
    encoding = str(header.get("encoding", "raw")).lower()
    if encoding not in ("raw", *GZIP, *BZIP2, *TEXT):
        raise InputError(f"{path.name} is stored as {encoding}, which is not read; save it as raw")
    file_path, start = _place(path, header)
    shape = tuple(int(n) for n in header["sizes"])
    need = math.prod(shape) * kind.itemsize
    check_claim(file_path, need, _ratio(encoding, kind))
    lines, skip = _skips(header)
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise ValueError(f"line skip {lines}, byte skip {skip}")
    with file_path.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline()
        if encoding in TEXT:
            file.seek(skip, 1)
            values = np.fromfile(file, kind, math.prod(shape), sep=" ")
            more = False
        elif skip == -1:  # the voxels are the end of the file, whatever stands before
            file.seek(-need, 2)
            values, more = _filled(iter(lambda: file.read(PIECE), b""), need, 0)
        else:
            values, more = _filled(_pieces(file, encoding), need, skip)
    data = values.view(kind).reshape(shape, order="F")
    return data.astype(kind.newbyteorder("="), copy=False), [BEYOND] if more else []


def _ratio(encoding: str, kind: np.dtype) -> float:
    """Bytes of voxels that one byte of the file may hold at most."""
    if encoding in GZIP:
        return MAX_RATIO
    if encoding in BZIP2:
        return BZIP2_RATIO
    return float(kind.itemsize) if encoding in TEXT else 1.0


def _skips(header: dict[str, Any]) -> tuple[int, int]:
    """Lines and bytes before the voxels; both fields are written in two ways."""
    names = ("line", "byte")
    lines, skip = (int(header.get(f"{n} skip", header.get(f"{n}skip", 0))) for n in names)
    return lines, skip


def _place(path: Path, header: dict[str, Any]) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte from which on lines and bytes are skipped."""
    name = header.get("data file", header.get("datafile"))
    if name is None:
        with path.open("rb") as file:
            while file.readline(LONGEST_HEADER).strip():
                pass
            return path, file.tell()
    if str(name).startswith("LIST") or "%" in str(name):
        raise InputError(f"{path.name} spreads its voxels over many files; save it as one .nrrd")
    beside = path.parent / str(name)
    if not beside.is_file():
        raise InputError(f"{beside.name}, which holds the voxels, is missing; copy both files")
    return beside, 0


def _pieces(file: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The bytes of the file, unpacked; never more than a piece at a time."""
    if encoding == "raw":
        yield from iter(lambda: file.read(PIECE), b"")
        return
    unpack = _gunzipped if encoding in GZIP else _bunzipped
    yield from unpack(file)


def _gunzipped(file: IO[bytes]) -> Iterator[bytes]:
    engine, left = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    while left := left or file.read(PIECE):
        if piece := engine.decompress(left, PIECE):
            yield piece
        left = engine.unconsumed_tail
        if engine.eof:  # its sum was right; another member may follow
            left = engine.unused_data or file.read(PIECE)
            if not left.startswith(b"\x1f\x8b"):
                return
            engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while piece := engine.decompress(engine.unconsumed_tail, PIECE):
        yield piece
    raise EOFError("the compressed voxels end too early")


def _bunzipped(file: IO[bytes]) -> Iterator[bytes]:
    engine, block = bz2.BZ2Decompressor(), b""
    while True:
        block = block or (file.read(PIECE) if engine.needs_input else b"")
        if not block and engine.needs_input:
            raise EOFError("the compressed voxels end too early")
        if piece := engine.decompress(block, PIECE):
            yield piece
        block = b""
        if engine.eof:
            block = engine.unused_data or file.read(PIECE)
            if not block.startswith(b"BZh"):
                return
            engine = bz2.BZ2Decompressor()


def _filled(pieces: Iterator[bytes], need: int, skip: int) -> tuple[npt.NDArray[np.uint8], bool]:
    """``need`` bytes after the first ``skip``, and whether any follow (no more are taken then)."""
    out, got = np.empty(need, np.uint8), -skip
    for piece in pieces:
        part = np.frombuffer(piece, np.uint8)[max(0, -got) :]
        first = max(0, got)
        got += len(piece)
        room = need - first
        if len(part) > room:
            out[first:] = part[:room]
            return out, True
        out[first : first + len(part)] = part
    if got < need:
        raise ValueError(f"{max(0, got)} of {need} bytes of voxels are there")
    return out, False
