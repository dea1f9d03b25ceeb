"""The ``.npy`` files through which the engine hands arrays to the window."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.control.volumes import FULL_PRECISION_VOXELS
from napari_attnseg.errors import EngineError
from napari_attnseg.io.pages import follow, reserve


def _unwritable(path: Path, error: OSError, then: str) -> EngineError:
    return EngineError(
        f"cannot write results into {path.parent}: {error.strerror or error}; "
        f"free some disk space and {then}"
    )


def open_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A writable map of ``path``; a file of the same shape and type keeps its values.

    Raises ``EngineError`` when the disk is full or the folder is gone.
    """
    begun = False
    try:
        if path.is_file():
            known = np.lib.format.open_memmap(path, mode="r+")
            if known.shape == shape and known.dtype == np.dtype(dtype):
                return known
            del known
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = True
        made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as file:
            reserve(file.fileno(), made.offset + made.nbytes)
    except OSError as error:
        if begun:  # else it holds what an earlier run finished, and its marks say so
            path.unlink(missing_ok=True)
        raise _unwritable(path, error, "press Run again") from error
    return made


def save_array(path: Path, values: np.ndarray) -> str:
    """Write a small or finished array; ``EngineError`` when the disk is full."""
    try:
        np.save(path, values, allow_pickle=False)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error, "try again") from error
    return str(path)


def open_scratch(path: str) -> np.ndarray:
    """An array handed over in scratch, as a read-only map."""
    try:
        return follow(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the scratch file {Path(path).name} cannot be read ({error}); "
            "select the layer again and repeat"
        ) from error


class SliceFile:
    """A ``.npy`` that is written a slice at a time, not through a map: the pages of a map would
    count as memory of this process, a whole volume of them.

    What is there already is kept when shape and type are the same (see :func:`open_array`).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        made = open_array(path, shape, dtype)
        self.path, self.dtype, self._count = path, made.dtype, shape[0]
        self._first, self._step = made.offset, made[0].nbytes if shape[0] else 0
        self._shape = shape[1:]
        del made
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115, closed in close()

    def write(self, z: int, values: np.ndarray) -> None:
        """Slice ``z``; it is in the system's hands when this returns, whatever becomes of us."""
        self._seek(z)
        whole = np.ascontiguousarray(np.broadcast_to(values, self._shape), self.dtype)
        left = whole.reshape(-1).view(np.uint8).data
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _unwritable(self.path, error, "press Run again") from error

    def read(self, z: int) -> np.ndarray:
        """A copy of slice ``z``."""
        self._seek(z)
        found = np.frombuffer(self._file.read(self._step), self.dtype)
        return found.reshape(self._shape).copy()

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def _seek(self, z: int) -> None:
        if not 0 <= z < self._count:
            raise IndexError(f"slice {z} of {self._count}")
        self._file.seek(self._first + z * self._step)


class ResultFiles:
    """Files of one run: labels and probability at full size, maps on the attention grid."""

    def __init__(self, out: Path, shape: tuple[int, int, int], grid: tuple[int, int]) -> None:
        self.labels = SliceFile(out / "labels.npy", shape, np.uint8)
        self.probability = SliceFile(out / "probability.npy", shape, probability_type(shape))
        self.maps = {
            name: SliceFile(out / f"{name}.npy", (shape[0], *grid), np.float32)
            for name in (("step", "received") if grid != (0, 0) else ())
        }

    @property
    def files(self) -> dict[str, str]:
        """Name to path, for the ``Started`` event."""
        every = {"labels": self.labels, "probability": self.probability, **self.maps}
        return {name: str(file.path) for name, file in every.items()}

    def write_map(self, name: str, z: int, values: np.ndarray | None) -> None:
        """Store a map of slice ``z`` where this model has one."""
        if values is not None and name in self.maps:
            self.maps[name].write(z, values)

    def close(self) -> None:
        """The run is over."""
        for file in (self.labels, self.probability, *self.maps.values()):
            file.close()


def probability_type(shape: tuple[int, ...]) -> type:
    """float32, or float16 for volumes so large that half the bytes matter (3 digits are left)."""
    return np.float16 if math.prod(shape) > FULL_PRECISION_VOXELS else np.float32


class LiveFiles:
    """Two buffers for live answers: one is read while the other is written."""

    def __init__(self, out: Path, shape: tuple[int, int]) -> None:
        self.out, self.shape = out, (2, *shape)
        self.labels = open_array(out / "live_labels.npy", self.shape, np.uint8)
        self.probability = open_array(out / "live_probability.npy", self.shape, np.float32)

    def plain(self) -> np.memmap:
        """Labels under plain attention, made when first compared."""
        return open_array(self.out / "live_plain.npy", self.shape, np.uint8)
