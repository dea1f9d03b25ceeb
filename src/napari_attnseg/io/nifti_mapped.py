"""Large NIfTI volumes without reading them: mapped as they lie, or unpacked once into a file."""

from __future__ import annotations

import math
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io import nifti
from napari_attnseg.io.doubts import assumed_space, doubts_of, trailing_note
from napari_attnseg.io.limits import check_claim, not_numbers, steady
from napari_attnseg.io.many import chosen
from napari_attnseg.io.mapped import FileMap
from napari_attnseg.io.sniff import is_gzip, sniff
from napari_attnseg.io.volume import Volume

MAPPED_BYTES = 48 << 20
"""Smaller volumes are read into memory: nothing can happen to them there."""
BLOCK = 1 << 24
Room = Callable[[int], Path]
"""Gives an empty folder for a file of so many bytes; raises ``InputError`` for want of space."""


def map_nifti(path: str | Path, room: Room, volume: int | None = None) -> Volume | None:
    """Like ``read_image``, with the pixels left in a file; ``None`` when they need not be.

    An uncompressed file in the processor's byte order and without a scale is mapped itself.
    Others are unpacked, block by block, into a file in ``room(bytes)``, which goes with the last
    array over it. Whatever is no large NIfTI volume of one number per voxel gives ``None``.
    Raises ``InputError`` like ``read_image``.
    """
    path = Path(path)
    with steady(path):
        if path.is_dir() or sniff(path) != "nifti":
            return None
        notes: list[str] = []
        header = nifti.read_header(path, notes)
        shape, count = nifti.spatial_shape(header)
        dtype = header.get_data_dtype()
        plain = dtype.names is None and dtype.kind in "iuf" and dtype.itemsize <= 8
        if not plain or math.prod(shape) * dtype.itemsize < MAPPED_BYTES:
            return None
        index = chosen(path, count, volume)
        data, left = _mapped(path, header, shape, count, index, room)
    notes = [f"repaired in the header: {words}" for words in notes]
    geometry = nifti.geometry_of(header)
    notes += doubts_of(header, shape) + trailing_note(left)
    if count > 1:
        notes.append(f"volume {index} of {count}")
    return Volume(
        data,
        geometry,
        path=path,
        header=header.binaryblock,
        note="; ".join(notes),
        assumed=assumed_space(header),
        part=index if count > 1 else None,
    )


def _mapped(
    path: Path, header: nifti.Header, shape: tuple[int, ...], count: int, index: int, room: Room
) -> tuple[FileMap, int]:
    """The voxels, and the bytes behind the last volume."""
    dtype = header.get_data_dtype()
    need, offset = math.prod(shape) * dtype.itemsize, int(header.get_data_offset())
    packed = is_gzip(path)
    check_claim(path, need * count + offset, nifti.DEFLATE_RATIO if packed else 1.0, memory=False)
    plain = header.get_slope_inter() in ((None, None), (1.0, 0.0), (1.0, None))
    if packed or not dtype.isnative or not plain:
        return _unpacked(path, header, shape, count, index, room)
    found = FileMap(path, dtype, offset + index * need, shape)
    if dtype.kind == "f":
        _check_finite(path, _blocks_of(found), found.size)
    return found, max(path.stat().st_size - offset - count * need, 0)


def _unpacked(
    path: Path, header: nifti.Header, shape: tuple[int, ...], count: int, index: int, room: Room
) -> tuple[FileMap, int]:
    """Values as ``read_nifti`` gives them, in a file of their own."""
    dtype = header.get_data_dtype()
    out = nifti.scaled(np.zeros(1, dtype.newbyteorder("=")), *header.get_slope_inter()).dtype
    size = math.prod(shape)
    folder = room(size * out.itemsize)
    target, left = folder / "voxels", [0]
    raw = _raw_blocks(path, header, size, count, index, left)
    try:
        with target.open("wb") as file:

            def converted() -> Iterator[npt.NDArray[Any]]:
                for block in raw:
                    native = block.astype(dtype.newbyteorder("="), copy=False)
                    values = nifti.scaled(native, *header.get_slope_inter())
                    file.write(values.data)
                    yield values

            _check_finite(path, converted(), size)
        found = FileMap(target, out, 0, shape)
    except (OSError, EOFError, zlib.error, InputError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path.name} cannot be unpacked into {folder.parent} ({error}); free some disk "
            "space, or copy or download it again"
        ) from error
    gone = weakref.finalize(found._mmap, shutil.rmtree, folder, ignore_errors=True)  # type: ignore[attr-defined]
    gone.atexit = False  # then it goes with all of the scratch
    return found, left[0]


def _raw_blocks(
    path: Path, header: nifti.Header, size: int, count: int, index: int, left: list[int]
) -> Iterator[npt.NDArray[Any]]:
    """Voxels of one volume as stored. The file is read to its end, where gzip checks its sum;
    ``left[0]``: bytes behind the last volume. Raises ``InputError`` for a file that is cut."""
    dtype = header.get_data_dtype()
    need, got = size * dtype.itemsize, 0
    try:
        with nifti.open_stream(path) as file:
            file.seek(int(header.get_data_offset()) + index * need)
            while got < need:
                block = _read(file, min(BLOCK, need - got))
                if len(block) % dtype.itemsize or not block:
                    break
                got += len(block)
                yield np.frombuffer(block, dtype)
            left[0] = -(count - index - 1) * need
            while rest := file.read(BLOCK):
                left[0] += len(rest)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path.name} is damaged or cut short ({error}); copy or download it again"
        ) from error
    if got < need:
        raise InputError(
            f"{path.name} is truncated: {got} of {need} bytes of voxels are there; "
            "copy or download it again"
        )
    left[0] = max(left[0], 0)


def _read(file: Any, wanted: int) -> bytes:
    """``wanted`` bytes, fewer only at the end of the file."""
    parts, got = [], 0
    while got < wanted and (part := file.read(wanted - got)):
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _check_finite(path: Path, blocks: Iterable[npt.NDArray[Any]], size: int) -> None:
    """Take every block; raise ``InputError`` when values in them are no numbers."""
    bad = sum(len(b) - int(np.isfinite(b).sum()) for b in blocks)
    if bad:
        raise InputError(not_numbers(path, bad, size))


def _blocks_of(found: FileMap) -> Iterator[npt.NDArray[Any]]:
    """All values in the order of the file, some at a time."""
    flat = found.reshape(-1, order="F")
    step = BLOCK // found.dtype.itemsize
    for start in range(0, flat.size, step):
        yield flat[start : start + step]
