"""Scratch folders for bulk data: capped in size, swept when their owner died.

Arrays go to the engine and come back as ``.npy`` files, so that a crash on either side loses
nothing that was finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.control.messages import ImageRef
from napari_attnseg.errors import InputError
from napari_attnseg.io.mapped import place_of
from napari_attnseg.living import MARK, beat, mark, owned, rest

CAP_BYTES = 16 << 30
"""Most bytes that one owner may keep in scratch."""
STAGE_BYTES = 8 << 30
"""Most bytes of stages that are kept for values moved later; half of what is free, if that is
less."""
FREE_BYTES = 256 << 20
"""Bytes left free on the disk whatever happens."""
KEPT_FOLDERS = 4
"""Folders with answers that are kept, the newest included."""
PREFIX = "attnseg-scratch"
OURS = re.compile(rf"{PREFIX}-{MARK}(?:-|@)")
"""Only folders of this name are ever swept: the root may hold other people's data."""
SILENT_SECONDS = 7 * 86400.0
"""Folders of a machine that was not heard of for so long are swept too: it may only sleep, and
its window would lose the pixels of large layers."""
ROOT_VARIABLE = "NAPARI_ATTNSEG_SCRATCH"


def default_root() -> Path:
    """``$NAPARI_ATTNSEG_SCRATCH``, or a folder in the user's cache."""
    if given := os.environ.get(ROOT_VARIABLE):
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("napari-attnseg") / "scratch"


def sweep(root: Path) -> list[Path]:
    """Remove the folders of owners that are gone; returns what was removed."""
    removed = []
    for folder in root.glob(f"{PREFIX}-*") if root.is_dir() else ():
        match = OURS.match(folder.name)
        if match and folder.is_dir() and not owned(folder, match, SILENT_SECONDS):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


class Scratch:
    """One owner's folder. ``root`` is swept of dead owners' folders when it is opened."""

    def __init__(self, root: Path | str | None = None, cap_bytes: int = CAP_BYTES) -> None:
        base = Path(root) if root is not None else default_root()
        try:
            base.mkdir(parents=True, exist_ok=True)
            sweep(base)
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{mark()}@", dir=base))
        except OSError as error:
            raise InputError(
                f"cannot make a scratch folder in {base}: {error.strerror}; "
                f"set {ROOT_VARIABLE} to a folder on a disk with free space"
            ) from error
        beat(self.path)
        self.cap_bytes = cap_bytes
        self._numbers = itertools.count(1)
        self._rolling: list[Path] = []
        self._held: dict[Hashable, str] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes of all files here."""
        return _bytes_under(self.path)

    @property
    def room_bytes(self) -> int:
        """Bytes that may still be written."""
        free = shutil.disk_usage(self.path).free - FREE_BYTES
        return max(0, min(self.cap_bytes - self.used_bytes, free))

    def ensure_room(self, nbytes: int) -> None:
        """Refuse with one sentence what would exceed the cap or fill the disk."""
        used = self.used_bytes
        free = shutil.disk_usage(self.path).free - FREE_BYTES
        if used + nbytes > self.cap_bytes or nbytes > free:
            room = max(0, min(self.cap_bytes - used, free))
            raise InputError(
                f"this needs {nbytes / 1e9:.1f} GB of scratch space but {room / 1e9:.1f} GB are "
                f"left in {self.path.parent}; free some disk space, or set {ROOT_VARIABLE} to a "
                "folder on a larger disk"
            )

    def stage_bytes(self) -> int:
        """Most bytes that the engine may keep of its stages here (see :data:`STAGE_BYTES`)."""
        stages = _bytes_under(self.stages)
        free = shutil.disk_usage(self.path).free - FREE_BYTES
        room = min(free, self.cap_bytes - self.used_bytes) // 2 + stages
        return max(0, min(STAGE_BYTES, room))

    @property
    def stages(self) -> Path:
        """The folder for them; only the engine writes there."""
        return self.path / "stages"

    def folder(self, name: str) -> Path:
        """A new empty folder ``<name>-<number>``."""
        path = self.path / f"{name}-{next(self._numbers)}"
        path.mkdir()
        return path

    def rolling_folder(self, name: str) -> Path:
        """A new folder for answers; of older ones the last few stay for layers that show them."""
        self._rolling.append(self.folder(name))
        while len(self._rolling) > KEPT_FOLDERS:
            self.drop(self._rolling.pop(0))
        return self._rolling[-1]

    def save(self, array: Any, name: str) -> Path:
        """Write ``<name>.npy`` whole or not at all, slice by slice (lazy arrays included).

        An existing file is replaced: a reader sees the old or the new array, never a mixture.
        """
        dtype, shape = np.dtype(array.dtype), tuple(int(n) for n in array.shape)
        self.ensure_room(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        path = self.path / f"{name}.npy"
        part = self.path / f"{name}.{next(self._numbers)}.part"
        try:
            with open(part, "wb") as file:
                np.lib.format.write_array_header_2_0(
                    file,
                    {
                        "descr": np.lib.format.dtype_to_descr(dtype),
                        "fortran_order": False,
                        "shape": shape,
                    },
                )
                for z in range(shape[0]):
                    file.write(np.ascontiguousarray(array[z]).data)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(
                f"cannot write scratch data in {self.path.parent}: {error.strerror}; free some "
                f"disk space, or set {ROOT_VARIABLE} to a folder on a larger disk"
            ) from error
        return path

    def hold(self, owner: Hashable, path: str) -> None:
        """``owner`` needs the file ``path`` (empty: none any more); what it held before is
        dropped when nobody else holds it."""
        before = self._held.pop(owner, "")
        if path:
            self._held[owner] = path
        if before and before not in self._held.values():
            self.drop(before)

    def drop(self, path: Path | str) -> None:
        """Forget a file or folder here; one still mapped on Windows stays until the end."""
        path = Path(path)
        if self.path not in path.parents:
            raise ValueError(f"{path} is not in this scratch folder")
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        rest(self.path)
        shutil.rmtree(self.path, ignore_errors=True)


def _bytes_under(folder: Path) -> int:
    """Bytes of all files there; the engine may remove some of them meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def pixel_key(array: Any) -> str:
    """A digest of pixels, shape and type, taken slice by slice."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((tuple(int(n) for n in array.shape), np.dtype(array.dtype).str)).encode())
    for z in range(int(array.shape[0])):
        digest.update(np.ascontiguousarray(array[z]).data)
    return digest.hexdigest()


def save_image(
    scratch: Scratch,
    array: Any,
    rgb: bool = False,
    flips: tuple[bool, bool, bool] = (False, False, False),
    spacing_mm: tuple[float, ...] = (),
) -> ImageRef:
    """Hand an image (Z,Y,X) or (Z,Y,X,C) to the engine; equal pixels are written once, and those
    that lie in a file already (``io.mapped``) not at all."""
    wanted, word = (4, "(Z, Y, X, channels)") if rgb else (3, "(Z, Y, X)")
    shape = tuple(int(n) for n in array.shape)
    if len(shape) != wanted or 0 in shape:
        raise InputError(
            f"got an image of shape {shape}, expected {word} with at least one pixel; "
            "choose another image layer"
        )
    if np.dtype(array.dtype).kind not in "biuf":
        raise InputError(
            f"got pixels of type {np.dtype(array.dtype)}, expected whole or real numbers; "
            "convert the layer first"
        )
    turned = tuple(bool(f) for f in flips)
    if (place := place_of(array)) is not None:
        key = hashlib.blake2b(repr(place).encode(), digest_size=16).hexdigest()
        return ImageRef(key, place.path, rgb, turned, spacing_mm, *place[1:])  # type: ignore[arg-type]
    key = pixel_key(array)
    path = scratch.path / f"image-{key}.npy"
    if not path.is_file():
        path = scratch.save(array, path.stem)
    return ImageRef(key, str(path), rgb, turned, spacing_mm)  # type: ignore[arg-type]


def save_sample(
    scratch: Scratch,
    array: Any,
    z: int,
    rgb: bool = False,
    flips: tuple[bool, bool, bool] = (False, False, False),
    spacing_mm: tuple[float, ...] = (),
) -> ImageRef:
    """Like :func:`save_image`, of slice ``z`` alone: the image of the same shape and type that has
    it at every place (a step of no bytes from slice to slice). The former sample is dropped."""
    plane = np.array(array[z])
    one = save_image(scratch, plane[None], rgb, flips, spacing_mm)
    scratch.hold("sample", one.path)
    pixels = np.load(one.path, mmap_mode="r", allow_pickle=False)
    shape = (int(array.shape[0]), *plane.shape)
    return replace(
        one,
        key=f"{one.key} x {shape[0]}",
        dtype=pixels.dtype.str,
        offset=pixels.offset,
        shape=shape,
        strides=(0, *pixels.strides[1:]),
        stamp=_stamp(one.path),
    )


def _stamp(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def read_buffer(path: Path, buffer: int) -> np.ndarray | None:
    """A copy of one of the buffers in a file, or ``None`` when there is no file (any more)."""
    with contextlib.suppress(FileNotFoundError):
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[buffer])
    return None


def read_copy(path: str) -> np.ndarray | None:
    """A copy of a whole file; ``None`` for no path or no file (any more)."""
    with contextlib.suppress(FileNotFoundError):
        return np.load(path, allow_pickle=False) if path else None
    return None
