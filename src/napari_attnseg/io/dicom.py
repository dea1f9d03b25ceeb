"""Read DICOM: a folder, or any file of a series, to one volume in exact space.

Slices are put in order by their place along the normal (never by file name or number). The affine
follows DICOM PS3.3 C.7.6.2.1.1 with the step between slices taken from their positions, so that a
tilted gantry gives a sheared affine; LPS becomes RAS by two signs, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.dicom_pixels import pixels_of
from napari_attnseg.io.dicom_scan import Frame, frames_in
from napari_attnseg.io.dicom_seg import read_seg, seg_at
from napari_attnseg.io.dicom_stack import Placed, Stack, place, stacks_of
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.io.volume import Volume

SCANNER = 1
"""NIfTI code of a space that the scanner gave."""


class ManySeries(ManyVolumes):
    """A folder holds several volumes and none was chosen; ``names`` tells them apart, ``uids``
    are those of their series."""

    def __init__(self, message: str, names: Sequence[str], uids: Sequence[str]) -> None:
        super().__init__(message, len(names), tuple(names))
        self.uids = tuple(uids)


def read_dicom(path: str | Path, series: int | str | None = None) -> Volume:
    """One volume in the order (column, row, slice), rescaled to the values its headers mean.

    ``series`` chooses by number (as listed, from 0) or by series UID where a folder holds several
    volumes; without it these raise ``ManySeries``. A DICOM-SEG gives its ids. A single image
    without a place becomes (Y, X). Missing slices are blank and named in ``note``. Raises
    ``InputError`` for damaged, truncated and undecodable files, uneven slices, and files that hold
    no image.
    """
    path = Path(path)
    segmentation = seg_at(path)
    if segmentation is not None:
        return read_seg(segmentation)
    stack = _chosen(path, _stacks(path), series)
    if stack.frames[0].position is None:
        return _picture(path, stack)
    placed = place(stack, f"{path.name} ({stack.name})")
    data, notes = pixels_of(placed.frames)
    order = (2, 1, 0, *range(3, data.ndim))
    geometry = Geometry(placed.affine, _shape(placed), sform_code=SCANNER)
    return Volume(
        data.transpose(order),
        geometry,
        data.ndim == 4,
        path,
        note="; ".join([*placed.notes, *notes]),
        assumed=placed.assumed,
        kind="dicom",
        part=stack.series,
        slices=tuple(None if f is None else (f.file, f.index) for f in placed.frames),
    )


def volumes_of(path: Path, series: str) -> list[int]:
    """Numbers, as ``read_dicom`` takes them, of the volumes of a series UID: several where images
    lie at one place (times, echoes), none where the series is not there."""
    return [number for number, stack in enumerate(_stacks(path)) if stack.series == series]


def dicom_size(path: str | Path, series: int | str | None = None) -> tuple[int, int, int]:
    """(Z, Y, X) in view order from the headers alone."""
    path = Path(path)
    segmentation = seg_at(path)
    if segmentation is not None:
        return read_seg(segmentation).shape
    stack = _chosen(path, _stacks(path), series)
    if stack.frames[0].position is None:
        return len(stack.frames), stack.frames[0].rows, stack.frames[0].columns
    placed = place(stack, path.name)
    return Geometry(placed.affine, _shape(placed)).view_shape


def _shape(placed: Placed) -> tuple[int, int, int]:
    first: Frame = next(f for f in placed.frames if f is not None)
    return first.columns, first.rows, len(placed.frames)


def _stacks(path: Path) -> list[Stack]:
    frames, others = frames_in(path)
    stacks = stacks_of(frames)
    if not stacks:
        what = "files without an image (reports, structures, segmentations)" if others else "files"
        raise InputError(
            f"{path.name} holds {others or 'no DICOM'} {what}; expected a folder of DICOM slices, "
            "or any slice of the series"
        )
    if path.is_dir():
        return stacks
    with_it = [s for s in stacks if any(f.file == path for f in s.frames)]
    return with_it or stacks


def _chosen(path: Path, stacks: list[Stack], series: int | str | None) -> Stack:
    if series is None and len(stacks) == 1:
        return stacks[0]
    listed = "; ".join(f"{i}: {s.name}" for i, s in enumerate(stacks))
    if series is None:
        raise ManySeries(
            f"{path.name} holds {len(stacks)} volumes; choose one with --volume K: {listed}",
            [s.name for s in stacks],
            [s.series for s in stacks],
        )
    if isinstance(series, str) and not series.isdecimal():
        fitting = [s for s in stacks if s.series == series]
        if len(fitting) == 1:
            return fitting[0]
        found = f"{len(fitting)} volumes" if fitting else "nothing"
        raise InputError(
            f"series {series} fits {found} in {path.name}; expected the number of one of {listed}"
        )
    if not 0 <= int(series) < len(stacks):
        raise InputError(f"got series {series}, but {path.name} holds {listed}")
    return stacks[int(series)]


def _picture(path: Path, stack: Stack) -> Volume:
    """An image without a place (radiograph, ultrasound): pixels, and their size if it is told."""
    first = stack.frames[0]
    data, notes = pixels_of(stack.frames)
    size = None if first.spacing is None else (1.0, *first.spacing)
    notes = [*notes, "its header gives no position in the patient"]
    flat = data[0] if len(data) == 1 else data
    rgb = first.samples == 3
    return Volume(
        np.ascontiguousarray(flat),
        None,
        rgb,
        first.file if len({f.file for f in stack.frames}) == 1 else path,
        note="; ".join(notes),
        pixel_mm=size,
        kind="dicom",
        part=stack.series,
        slices=tuple((f.file, f.index) for f in stack.frames),
    )
