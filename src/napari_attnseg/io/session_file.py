"""The session file ``NAME.attnseg``: a zip of one JSON object and plain arrays, nothing else.

``session.json`` says what there is; every array is a ``.npy`` member that is never unpickled and
whose header must agree with the member's size before anything is allocated. Written whole or not
at all.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.atomic import whole
from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.journal import Page

SUFFIX = ".attnseg"
VERSION = 1
"""Raised when an older program could not understand what is written."""
_FORMAT = "napari-attnseg session"
_INDEX = "session.json"
_INDEX_BYTES = 64 << 20
_RATIO = 1100
"""Deflate packs no better than this."""
_BROKEN = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, RuntimeError, EOFError)
"""What the standard library raises over a zip that is damaged or locked."""


@dataclass(frozen=True)
class Session:
    """What a session file says; its arrays are read when they are asked for."""

    path: Path
    data: dict[str, Any]

    def array(self, name: str) -> npt.NDArray[Any]:
        """The array called ``name``. Raises ``InputError`` when it is missing or damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(f"{name}.npy")
                if info.file_size > _RATIO * max(info.compress_size, 1):
                    raise ValueError("it claims more than it can hold")
                with archive.open(info) as file:
                    return _read_array(file, info.file_size)
        except (*_BROKEN, OSError) as error:
            raise InputError(
                f"{self.path.name} is damaged: its array {name} cannot be read ({error}); "
                "use a copy of the file"
            ) from error

    def pages(self, name: str, index: list[Any]) -> dict[Page, bytes]:
        """Packed tiles as :func:`pages_array` laid them out."""
        blob, place, found = self.array(name).tobytes(), 0, {}
        try:
            for plane, z, i, j, length in index:
                found[(int(plane), (int(z), int(i), int(j)))] = blob[place : place + length]
                place += int(length)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.path.name} is damaged: {error}; use a copy") from error
        if place != len(blob):
            raise InputError(f"{self.path.name} is damaged: {name} is cut short; use a copy")
        return found


def pages_array(pages: Mapping[Page, bytes]) -> tuple[list[list[int]], npt.NDArray[np.uint8]]:
    """Packed tiles as an index and one array of bytes."""
    index = [[plane, *key, len(data)] for (plane, key), data in pages.items()]
    return index, np.frombuffer(b"".join(pages.values()), np.uint8)


def write_session(path: Path, data: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a session, whole or not at all. Raises ``ExportError`` when the disk refuses."""
    head = {"format": _FORMAT, "version": VERSION, **data}
    try:
        with whole(path) as draft, zipfile.ZipFile(draft, "w", compresslevel=1) as archive:
            text = json.dumps(head, indent=1).encode()
            archive.writestr(_INDEX, text, zipfile.ZIP_DEFLATED)
            for name, array in arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy")
                info.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(info, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise ExportError(
            f"cannot write {path} ({error.strerror or error}); nothing was changed, choose "
            "another folder or free some space"
        ) from error


def read_session(path: Path | str) -> Session:
    """Read what a session file says.

    Raises ``InputError`` for a file that is missing, no session, damaged, or of a newer version.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(_INDEX)
            if info.file_size > _INDEX_BYTES:
                raise ValueError("its index is too large")
            data = json.loads(archive.read(info))
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError("it says that it is something else")
        version = int(data["version"])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _BROKEN as error:
        raise InputError(
            f"{path.name} is no session of napari-attnseg, or it is damaged ({error}); choose a "
            f"{SUFFIX} file that was saved by Save session"
        ) from error
    if version > VERSION:
        raise InputError(
            f"{path.name} was written by a newer napari-attnseg (its version is {version}, this "
            f"one reads up to {VERSION}); update napari-attnseg to open it"
        )
    return Session(path, data)


def _read_array(file: Any, size: int) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"array format {version} is not known")
    shape, fortran, dtype = read(file)
    count = 1
    for n in shape:
        count *= int(n)
    if dtype.hasobject or count * dtype.itemsize != size - file.tell():
        raise ValueError("its header does not agree with its size")
    flat = np.frombuffer(file.read(), dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
