"""A batch as plain data: what is asked for (recipe), of which file (task), and what came of it.

All of it travels between processes, so nothing here holds a model or a pixel, and importing this
costs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_attnseg.settings import Tuning

Status = Literal["ok", "kept", "failed", "refused"]
"""Made now; found finished; not made for an error; not made because of ``strict``."""
Stamp = tuple[int, int]
"""What tells a file from the one that takes its place: its number on the disk, and its time."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a mask, whoever makes it.

    ``model``: a checkpoint file (absolute, where several machines work) or a shipped name;
    ``digest``: of its card, so that another model under the same name is noticed. ``refine``: a
    refined model that goes on top; ``tuning`` is then its own, and ``own`` that of ``model``.
    ``save``: of ``EXTRAS`` what is written besides the mask. ``strict``: doubts refuse a file.
    ``overwrite``: finished masks are made anew. ``axis``: along which slices are taken, a word of
    ``control.volumes.AXES``, or ``ALL_AXES``. ``tidy``: steps of ``io.tidying`` after the mask.
    """

    model: str
    tuning: Tuning
    digest: str = ""
    refine: str | None = None
    refine_digest: str = ""
    own: Tuning | None = None
    device: str = "auto"
    tile: int | None = None
    axis: str = "axial"
    volume: int | None = None
    save: tuple[str, ...] = ()
    strict: bool = False
    overwrite: bool = False
    tidy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One image and the place of its mask. ``before``: what stood there when the batch began."""

    image: Path
    mask: Path
    before: Stamp | None = None


@dataclass(frozen=True)
class Row:
    """What came of one file; a line of ``predictions.csv``.

    ``seconds``: from opening the image to the verified mask, ``None`` where none was made.
    ``counts``: pixels per class id. ``voxel_mm3``: ``None`` where a voxel has no known volume.
    ``verified``: the mask was read back from the disk and found equal (or, kept, read again).
    ``message``: the verdict on the export. ``said``: lines about what was written besides.
    ``trace``: of an error that is the program's own.
    """

    file: str
    mask: str
    status: Status
    seconds: float | None = None
    counts: Mapping[int, int] = field(default_factory=dict)
    voxel_mm3: float | None = None
    verified: bool = False
    device: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
    message: str = ""
    said: tuple[str, ...] = ()
    trace: str = ""

    @property
    def good(self) -> bool:
        """Whether there is a finished mask."""
        return self.status in ("ok", "kept")


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file, ``None`` where there is none."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_ino, now.st_mtime_ns


def tasks_of(places: Mapping[Path, Path]) -> list[Task]:
    """A task per image; ``places``: image to mask."""
    return [Task(image, mask, stamp_of(mask)) for image, mask in places.items()]
