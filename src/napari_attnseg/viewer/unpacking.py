"""Large images for the window: their pixels stay in files, ours or the person's own."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import TYPE_CHECKING

from napari_attnseg.control.scratch import Scratch

if TYPE_CHECKING:
    from napari_attnseg.io.volume import Volume

_scratch: Scratch | None = None
_ahead: dict[tuple[Path, int | str | None], Volume] = {}


def read_for_window(path: str | Path, volume: int | None = None) -> Volume:
    """Like ``read_image``; large NIfTI volumes are left in a file and read where they are seen.

    What must be unpacked for that lies in this process' scratch until its last array is gone.
    """
    from napari_attnseg.io.image import read_image  # readers of all formats: half a second
    from napari_attnseg.io.nifti_mapped import map_nifti

    ahead = _ahead.pop((Path(path).absolute(), volume), None)
    return ahead or map_nifti(path, _room, volume) or read_image(path, volume)


def read_ahead(path: Path, volume: int | None = None) -> None:
    """Read an image now, in any thread, for the next :func:`read_for_window` of it."""
    _ahead[path.absolute(), volume] = read_for_window(path, volume)


def forget_ahead() -> None:
    """Nobody wants what was read ahead any more."""
    _ahead.clear()


def _room(nbytes: int) -> Path:
    """An empty folder for a file of so many bytes."""
    global _scratch
    if _scratch is None:
        _scratch = Scratch()
        atexit.register(_scratch.close)
    _scratch.ensure_room(nbytes)
    return _scratch.folder("unpacked")
