"""What every export asks of the file it has just written, before that gets its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np

from napari_attnseg.errors import ExportError
from napari_attnseg.io.volume import Volume


@contextlib.contextmanager
def reading_back(what: str = "file") -> Iterator[None]:
    """Whatever goes wrong inside is said in one sentence."""
    try:
        yield
    except Exception as error:
        raise ExportError(
            f"the written {what} cannot be read back ({error}); nothing was changed, export again"
        ) from error


def differs(what: str) -> ExportError:
    """``what`` (a plural) came back otherwise."""
    return ExportError(f"the written {what} do not read back as written; nothing was changed")


def check_volume(
    path: Path,
    read: Callable[[Path], Volume],
    data: np.ndarray,
    affine: np.ndarray,
    close: float = 0.0,
) -> None:
    """Read a file again and compare type, every voxel and the affine.

    ``close``: share of the smallest voxel edge by which a corner may lie elsewhere, for formats
    that do not store an affine as such; 0: every bit. Raises ``ExportError``.
    """
    with reading_back():
        again = read(path)
    if again.data.dtype != data.dtype or not np.array_equal(again.data, data):
        raise differs("voxels")
    found = again.geometry
    if found is None:
        raise differs("places")
    corners = np.array([(*at, 1) for at in product(*((0, n - 1) for n in data.shape))], float)
    smallest = np.linalg.norm(affine[:3, :3], axis=0).min()
    apart = np.abs(corners @ (found.affine - affine).T).max()
    if apart > close * smallest or not (close or np.array_equal(found.affine, affine)):
        raise differs("places")
