"""The ``.npy`` files through which the engine hands arrays to the window."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from napari_attnseg.errors import EngineError


def _reserve(path: Path, nbytes: int) -> None:
    """Claim disk space now: a full disk is an error here, not a crash while writing a page."""
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        else:
            file.truncate(nbytes)


def open_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """A writable map of ``path``; a file of the same shape and type keeps its values.

    Raises ``EngineError`` when the disk is full or the folder is gone.
    """
    try:
        if path.is_file():
            known = np.lib.format.open_memmap(path, mode="r+")
            if known.shape == shape and known.dtype == np.dtype(dtype):
                return known
            del known
        path.parent.mkdir(parents=True, exist_ok=True)
        made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        _reserve(path, made.offset + made.nbytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise EngineError(
            f"cannot write results into {path.parent}: {error.strerror or error}; "
            "free some disk space and press Run again"
        ) from error
    return made


def save_array(path: Path, values: np.ndarray) -> str:
    """Write a small or finished array; ``EngineError`` when the disk is full."""
    try:
        np.save(path, values, allow_pickle=False)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise EngineError(
            f"cannot write results into {path.parent}: {error.strerror or error}; "
            "free some disk space and try again"
        ) from error
    return str(path)


class ResultFiles:
    """Files of one run: labels and probability at full size, maps on the attention grid."""

    def __init__(self, out: Path, shape: tuple[int, int, int], grid: tuple[int, int]) -> None:
        self.paths = {name: out / f"{name}.npy" for name in ("labels", "probability")}
        self.labels = open_array(self.paths["labels"], shape, np.uint8)
        self.probability = open_array(self.paths["probability"], shape, np.float32)
        self.maps: dict[str, np.memmap] = {}
        for name in ("step", "received") if grid != (0, 0) else ():
            self.paths[name] = out / f"{name}.npy"
            self.maps[name] = open_array(self.paths[name], (shape[0], *grid), np.float32)

    @property
    def files(self) -> dict[str, str]:
        """Name to path, for the ``Started`` event."""
        return {name: str(path) for name, path in self.paths.items()}

    def write_map(self, name: str, z: int, values: np.ndarray | None) -> None:
        """Store a map of slice ``z`` where this model has one."""
        if values is not None and name in self.maps:
            self.maps[name][z] = values


class LiveFiles:
    """Two buffers for live answers: one is read while the other is written."""

    def __init__(self, out: Path, shape: tuple[int, int]) -> None:
        self.out, self.shape = out, (2, *shape)
        self.labels = open_array(out / "live_labels.npy", self.shape, np.uint8)
        self.probability = open_array(out / "live_probability.npy", self.shape, np.float32)

    def plain(self) -> np.memmap:
        """Labels under plain attention, made when first compared."""
        return open_array(self.out / "live_plain.npy", self.shape, np.uint8)
