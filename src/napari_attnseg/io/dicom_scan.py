"""What DICOM files hold, told by their headers alone: every image frame and its place."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError

MAGIC_AT, MAGIC = 128, b"DICM"
LOOKED_AT = 2000
"""Files of a folder that are looked at to tell whether it is one of DICOM."""
SPLITTERS = (
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "EchoTime",
    "DiffusionBValue",
    "TriggerTime",
    "ImageType",
    "ConvolutionKernel",
    "ContentTime",
)
"""What tells images at one place from each other, the likeliest first."""
TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber"),
    *("Modality", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "RescaleType"),
    *SPLITTERS,
]
DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: where it lies and how its values are to be read.

    ``position``: centre of the first pixel in LPS mm, ``None`` when unstated. ``orientation``:
    direction of growing columns, then of growing rows. ``spacing``: mm between rows and columns.
    ``thickness``: mm to the next slice as the file says it. ``told``: values that may tell frames
    at one place from each other.
    """

    file: Path
    index: int
    uid: str
    series: str
    title: str
    modality: str
    instance: int
    rows: int
    columns: int
    samples: int
    bits: tuple[int, int, int]
    photometric: str
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    syntax: str
    frames: int = 1
    told: dict[str, str] = field(default_factory=dict)


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + 4)[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def holds_dicom(folder: Path) -> bool:
    """Whether there is a DICOM file in or below a folder, among its first files."""
    return any(is_dicom(file) for file in islice(_files(folder), LOOKED_AT))


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and ".zarr" not in f)
        yield from (Path(place, name) for name in sorted(names))


def frames_in(path: Path) -> tuple[list[Frame], int]:
    """All image frames of a folder, or of the series that a file belongs to; how many files hold
    none (reports, structures, a DICOMDIR) comes second. Raises ``InputError`` for damaged ones."""
    if path.is_dir():
        files = [file for file in _files(path) if is_dicom(file)]
        parts = [_frames_of(file) for file in files]
        return [f for part in parts for f in part], sum(not part for part in parts)
    own = _frames_of(path)
    if not own or own[0].position is None:
        return own, int(not own)
    beside = [p for p in path.parent.iterdir() if p.is_file() and p != path and is_dicom(p)]
    found = [f for p in sorted(beside) for f in _frames_of(p)]
    return [*own, *(f for f in found if f.series == own[0].series)], 0


def _frames_of(file: Path) -> list[Frame]:
    """The frames of one file; none for a file without pixels."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with pydicom.config.disable_value_validation():
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)  # type: ignore[arg-type]
            if "Rows" not in head or "Columns" not in head or head.get("Modality") == "SEG":
                return []
            count = int(head.get("NumberOfFrames") or 1)
            if count > file.stat().st_size:  # before there is an object for each of them
                raise ValueError(f"{count:,} frames in so small a file")
            return [_frame(head, file, i, count) for i in range(count)]
    except (InvalidDicomError, *DAMAGE) as error:
        raise InputError(
            f"the DICOM header of {file.name} is damaged ({words_of(error)}); copy or export the "
            "series again, or move this file away"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def words_of(error: Exception) -> str:
    """The first line of what a library said."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".;")[:80] if text else type(error).__name__


def _frame(head: Any, file: Path, index: int, count: int) -> Frame:
    def value(name: str, group: str = "") -> Any:
        return _value(head, index, count, name, group)

    position = value("ImagePositionPatient", "PlanePositionSequence")
    orientation = value("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = value("PixelSpacing", "PixelMeasuresSequence") or head.get("ImagerPixelSpacing")
    between = value("SpacingBetweenSlices", "PixelMeasuresSequence")
    thickness = between or value("SliceThickness", "PixelMeasuresSequence")
    values = "PixelValueTransformationSequence"
    placed = position is not None and orientation is not None and spacing is not None
    return Frame(
        file,
        index,
        str(head.get("SOPInstanceUID", file.name)),
        str(head.get("SeriesInstanceUID", "")),
        str(
            head.get("SeriesDescription") or f"series {head.get('SeriesNumber') or 'without name'}"
        ),
        str(head.get("Modality", "")),
        int(head.get("InstanceNumber") or 0) + index,
        int(head.Rows),
        int(head.Columns),
        int(head.get("SamplesPerPixel") or 1),
        (int(head.BitsAllocated), int(head.BitsStored), int(head.get("PixelRepresentation") or 0)),
        str(head.get("PhotometricInterpretation", "MONOCHROME2")),
        _numbers(position, 3) if placed else None,
        _numbers(orientation, 6) if placed else None,
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        None if thickness in (None, "") else abs(float(thickness)),
        _number(value("RescaleSlope", values), 1.0),
        _number(value("RescaleIntercept", values), 0.0),
        str(head.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")),
        count,
        {name: str(head.get(name)) for name in SPLITTERS if head.get(name) not in (None, "")},
    )


def _value(head: Any, index: int, count: int, name: str, group: str) -> Any:
    """An attribute of a frame: its own functional group, the shared one, or the file's."""
    if group:
        own = head.get("PerFrameFunctionalGroupsSequence") or ()
        if len(own) not in (0, count):
            raise ValueError(f"{count} frames but {len(own)} groups of frame attributes")
        for item in (*own[index : index + 1], *(head.get("SharedFunctionalGroupsSequence") or ())):
            inner = item.get(group)
            if inner and inner[0].get(name) is not None:
                return inner[0].get(name)
    found = head.get(name)
    return None if found == "" else found


def _number(value: Any, default: float) -> float:
    return default if value in (None, "") else float(value)


def _numbers(values: Any, count: int) -> np.ndarray:
    array = np.array([float(v) for v in values])
    if array.shape != (count,) or not np.isfinite(array).all():
        raise ValueError(f"{count} finite numbers are expected, {values} found")
    return array
