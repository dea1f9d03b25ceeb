"""Read DICOM-SEG: the segments of any maker as ids, in exact space.

Every frame names its segment and its own place, and slices on which nothing is drawn are mostly
left out. So the grid is that of the image where the file tells it (ours do), else the least one
that holds all frames; :func:`napari_attnseg.io.regrid.on_grid` puts it into an image's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.dicom_pixels import NATIVE
from napari_attnseg.io.dicom_scan import DAMAGE, is_dicom, words_of
from napari_attnseg.io.limits import MAX_RATIO, check_claim, readable_bytes
from napari_attnseg.io.seg_grid import Grid, grid_of
from napari_attnseg.io.volume import Volume

CREATOR, GROUP = "NAPARI-ATTNSEG", 0x0099
COMMENT, PLACE = 0x01, 0x02
"""Private elements: all that is known of the mask, and its grid and ids, both as JSON."""
SCANNER = 1
CUT = 0.5
"""Share of the highest fraction from which a pixel counts as the segment."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where a frame lies (LPS, centre of the first pixel) and the number of its segment."""

    at: np.ndarray
    number: int


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    if not path.is_file() or not is_dicom(path):
        return False
    import pydicom

    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
        return head.get("Modality") == "SEG"
    except (*DAMAGE, OSError):
        return False


def seg_at(path: Path) -> Path | None:
    """The segmentation that a path means: the file, or the only DICOM file of a folder."""
    if not path.is_dir():
        return path if is_seg(path) else None
    files = list(islice((f for f in sorted(path.iterdir()) if is_dicom(f)), 2))
    return files[0] if len(files) == 1 and is_seg(files[0]) else None


def read_seg(path: str | Path) -> Volume:
    """Ids (column, row, slice), uint8 or uint16, with their geometry; ``labels`` is true.

    Ids are those that the file was written with, of other makers the numbers of the segments.
    Raises ``InputError`` for damaged files and for frames without a place or on no even grid.
    """
    path = Path(path)
    try:
        return _read(path)
    except DAMAGE as error:  # headers are parsed where they are asked for
        raise _damaged(path, error) from error


def _read(path: Path) -> Volume:
    head = _head(path)
    frames, turn, size = _frames(path, head)
    grid = _grid(path, head, frames, turn, size)
    ids = _ids_of(head)
    need = int(np.prod(grid.shape, dtype=object)) * (1 if max(ids.values()) < 256 else 2)
    free = psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{path.name} spans {readable_bytes(need)} but only {readable_bytes(free)} of memory "
            "are free; close other programs, or take a part of it"
        )
    data, notes = _filled(path, head, frames, grid, ids)
    geometry = Geometry(grid.affine, grid.shape, sform_code=SCANNER)
    note = "; ".join(notes)
    return Volume(data, geometry, path=path, kind="dicom", note=note, labels=True)


def names_in(path: Path) -> dict[int, str]:
    """Name of every id, as its segment is labelled."""
    head = _head(path)
    ids = _ids_of(head)
    named = {int(s.SegmentNumber): str(s.SegmentLabel) for s in head.SegmentSequence}
    return {ids[number]: name for number, name in sorted(named.items())}


def comment_of(path: Path) -> dict[str, Any]:
    """Classes, colours and provenance of a mask that was written here; of another maker's, the
    names of its segments."""
    import pydicom

    try:
        text = _private(pydicom.dcmread(path, stop_before_pixels=True), COMMENT)
        if text is not None:
            return dict(json.loads(text))
    except DAMAGE:
        return {}
    names = names_in(path) if is_seg(path) else {}
    return {"classes": {str(i): name for i, name in names.items()}} if names else {}


def _private(head: Any, element: int) -> str | None:
    try:
        return str(head.private_block(GROUP, CREATOR)[element].value)
    except KeyError:
        return None


def _head(path: Path) -> Any:
    import pydicom

    try:
        with pydicom.config.disable_value_validation():
            head = pydicom.dcmread(path, stop_before_pixels=True)
        count, rows, columns = _size(head)
        if min(count, rows, columns) < 1 or not head.SegmentSequence:
            raise ValueError(f"{count} frames of {columns} x {rows}")
    except (*DAMAGE, OSError) as error:
        raise _damaged(path, error) from error
    bits = int(head.get("BitsAllocated") or 1)
    native = head.file_meta.get("TransferSyntaxUID") in NATIVE
    check_claim(path, count * rows * columns * bits // 8, 1.0 if native else MAX_RATIO)
    return head


def _size(head: Any) -> tuple[int, int, int]:
    """Frames, rows, columns."""
    return int(head.get("NumberOfFrames") or 1), int(head.Rows), int(head.Columns)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"the DICOM-SEG {path.name} is damaged ({words_of(error)}); copy or export it again"
    )


def _frames(path: Path, head: Any) -> tuple[list[_Frame], np.ndarray, tuple[float, ...]]:
    """All frames, their one orientation (6,), and mm between rows, columns and (or 0) slices."""
    shared = (head.get("SharedFunctionalGroupsSequence") or [{}])[0]
    groups: Any = head.get("PerFrameFunctionalGroupsSequence") or ()
    try:
        if len(groups) != _size(head)[0]:
            raise ValueError(f"{_size(head)[0]} frames but {len(groups)} groups of attributes")
        found, turns = [], []
        for group in groups:
            at = np.array(_of(group, shared, "PlanePosition", "ImagePositionPatient"), float)
            number = 0  # of a label map: pixels are numbers of segments
            if head.get("SegmentationType") != "LABELMAP":
                number = int(_of(group, shared, "SegmentIdentification", "ReferencedSegmentNumber"))
            found.append(_Frame(at, number))
            turns.append(_of(group, shared, "PlaneOrientation", "ImageOrientationPatient"))
        turn = np.array(turns, float)
        spacing = _of(groups[0], shared, "PixelMeasures", "PixelSpacing")
        between = _of(groups[0], shared, "PixelMeasures", "SpacingBetweenSlices", False)
        between = between or _of(groups[0], shared, "PixelMeasures", "SliceThickness", False)
        size = (float(spacing[0]), float(spacing[1]), float(between or 0))
        places = np.array([f.at for f in found])
        if turn.shape[1:] != (6,) or places.shape[1:] != (3,) or not np.isfinite(places).all():
            raise ValueError("a frame without a place")
        if np.abs(turn - turn[0]).max() > 1e-4:
            raise ValueError("frames are turned against each other")
    except DAMAGE as error:
        raise _damaged(path, error) from error
    return found, turn[0], size


def _of(group: Any, shared: Any, sequence: str, name: str, needed: bool = True) -> Any:
    for item in (group, shared):
        inner = item.get(f"{sequence}Sequence")
        if inner and inner[0].get(name) not in (None, ""):
            return inner[0].get(name)
    if needed:
        raise ValueError(f"{name} is missing")
    return None


def _grid(
    path: Path, head: Any, frames: list[_Frame], turn: np.ndarray, size: tuple[float, ...]
) -> Grid:
    """The grid that the file tells, if its frames lie on it; else the least that holds them."""
    points = np.array([f.at for f in frames])
    _, rows, columns = _size(head)
    told = _private(head, PLACE)
    if told is not None:
        try:
            known = json.loads(told)
            grid = Grid(np.array(known["affine"], float), (columns, rows, int(known["slices"])))
            if grid.holds(points, turn, size):
                return grid
        except (*DAMAGE, InputError):
            pass  # changed by another program: the frames say where they lie
    return grid_of(path, points, turn, size, (columns, rows))


def _ids_of(head: Any) -> dict[int, int]:
    """Id of every segment number."""
    numbers = [int(s.SegmentNumber) for s in head.SegmentSequence]
    told = _private(head, PLACE)
    try:
        ids = [int(i) for i in json.loads(told or "{}")["ids"]]
    except DAMAGE:
        ids = []
    fits = len(ids) == len(numbers) and all(0 < i < 1 << 16 for i in ids)
    return dict(zip(numbers, ids if fits else numbers, strict=True))


def _filled(
    path: Path, head: Any, frames: list[_Frame], grid: Grid, ids: dict[int, int]
) -> tuple[np.ndarray, list[str]]:
    kind = np.uint8 if max(ids.values()) < 256 else np.uint16
    data, shared = np.zeros(grid.shape, kind), 0
    slices = grid.slices(np.array([f.at for f in frames]))
    for frame, k, drawn in zip(frames, slices, _drawn(path, head), strict=True):
        target = data[:, :, k]
        if frame.number:
            if frame.number not in ids:
                raise _damaged(path, ValueError(f"segment {frame.number} is not described"))
            over = drawn.T > 0
            shared += int(np.count_nonzero(target[over]))
            target[over] = ids[frame.number]
        else:
            for number in np.unique(drawn[drawn > 0]):
                target[number == drawn.T] = ids.get(int(number), int(number))
    notes = []
    if shared:
        notes.append(f"{shared:,} pixels are in several segments: the last one counts")
    if head.get("SegmentationType") == "FRACTIONAL":
        notes.append(f"fractions cut at {CUT:g}")
    return data, notes


def _drawn(path: Path, head: Any) -> Iterator[np.ndarray]:
    """Every frame (rows, columns): 1 where it is drawn, of a label map its numbers."""
    count, rows, columns = _size(head)
    packed = int(head.get("BitsAllocated") or 1) == 1
    top = int(head.get("MaximumFractionalValue") or 255)
    cut = CUT * top if head.get("SegmentationType") == "FRACTIONAL" else None
    try:
        bits = _bits(path) if packed else np.zeros(0, np.uint8)
        for index in range(count):
            frame = _unpacked(bits, index, rows, columns) if packed else _decoded(path, index)
            frame = frame.reshape(rows, columns)
            yield frame if cut is None else (frame >= cut).astype(np.uint8)
    except (*DAMAGE, OSError) as error:
        raise _damaged(path, error) from error


def _decoded(path: Path, index: int) -> np.ndarray:
    from pydicom.pixels import pixel_array

    return np.asarray(pixel_array(path, index=index))


def _bits(path: Path) -> np.ndarray:
    import pydicom

    file = pydicom.dcmread(path)
    if file.file_meta.TransferSyntaxUID.is_encapsulated:  # else its bytes would be taken for bits
        raise ValueError("compressed single bits, which are not read here; store it uncompressed")
    return np.frombuffer(file.PixelData, np.uint8)


def _unpacked(data: np.ndarray, index: int, rows: int, columns: int) -> np.ndarray:
    """Frames follow each other bit by bit (PS3.5 8.1.1), so one may begin within a byte."""
    first, count = index * rows * columns, rows * columns
    part = data[first // 8 : -(-(first + count) // 8)]
    return np.unpackbits(part, bitorder="little")[first % 8 :][:count]
