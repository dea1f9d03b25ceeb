"""DICOM series written with pydicom: oblique, tilted, shuffled, with holes, as scanners do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

COLUMNS, ROWS, SLICES = 9, 7, 5


def turned(about: str, degrees: float) -> np.ndarray:
    """Rotation about one axis."""
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    matrix[[a, b], [a, b]] = c
    matrix[a, b], matrix[b, a] = -s, s
    return matrix


def values(shape: tuple[int, ...] = (SLICES, ROWS, COLUMNS), seed: int = 0) -> np.ndarray:
    """Stored values that tell every pixel from every other."""
    rng = np.random.default_rng(seed)
    return rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.uint16)


def positions(
    count: int = SLICES, step: Any = (0, 0, 2.5), origin: Any = (-31.25, 17.5, 402.0)
) -> np.ndarray:
    """LPS places of the first pixels."""
    return np.asarray(origin) + np.arange(count)[:, None] * np.asarray(step, float)


def write_series(
    folder: Path,
    pixels: np.ndarray | None = None,
    places: np.ndarray | None = None,
    turn: np.ndarray | None = None,
    names: Any = None,
    series: str = "",
    **tags: Any,
) -> list[Path]:
    """A file per slice. ``turn``: rotation of the image axes; ``names``: file names. The instance
    numbers run against the places, so that nobody can sort by them."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = values() if pixels is None else pixels
    places = positions(len(pixels)) if places is None else places
    series = series or generate_uid(None)[:40].rstrip(".")
    written = []
    for k, (image, place) in enumerate(zip(pixels, places, strict=True)):
        data = head(series, image, len(pixels) - k)
        matrix = np.eye(3) if turn is None else turn
        data.ImageOrientationPatient = [f"{v:.12g}" for v in (*matrix[:, 0], *matrix[:, 1])]
        data.ImagePositionPatient = [f"{v:.12g}" for v in place]
        for name, value in tags.items():
            setattr(data, name, value[k] if isinstance(value, tuple) else value)
        path = folder / (names[k] if names else f"{k}.dcm")
        data.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def head(series: str, image: np.ndarray, number: int) -> FileDataset:
    """A CT slice of 0.75 (columns) by 1.5 (rows) mm without a place."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = series
    data.StudyInstanceUID, data.FrameOfReferenceUID = f"{series}.1", f"{series}.2"
    data.SeriesDescription, data.Modality = "thin", "CT"
    data.PatientID, data.PatientName, data.StudyID = "7", "Phantom", "1"
    data.PatientBirthDate = data.PatientSex = data.AccessionNumber = ""
    data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "20260101", "120000", ""
    data.InstanceNumber, data.SeriesNumber = number, 3
    data.Rows, data.Columns = image.shape[:2]
    data.SamplesPerPixel = 3 if image.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if image.ndim == 3 else "MONOCHROME2"
    if image.ndim == 3:
        data.PlanarConfiguration = 0
    bits = image.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored = bits, 12 if bits == 16 else bits
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelSpacing, data.SliceThickness = ["1.5", "0.75"], "2.5"
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = image.tobytes()
    return data


def write_enhanced(path: Path, pixels: np.ndarray, places: np.ndarray, turn: np.ndarray) -> Path:
    """All slices in one file with functional groups, as enhanced CT does."""
    data = head(generate_uid(None)[:40].rstrip("."), pixels[0], 1)
    for tag in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(data, tag)
    data.NumberOfFrames, data.PixelData = len(pixels), pixels.tobytes()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    shared = Dataset()
    direction = [f"{v:.12g}" for v in (*turn[:, 0], *turn[:, 1])]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=direction)]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=["1.5", "0.75"], SliceThickness="2.5")]
    shared.PixelValueTransformationSequence = [
        _item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    ]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in places:
        frame = Dataset()
        where = [f"{v:.12g}" for v in place]
        frame.PlanePositionSequence = [_item(ImagePositionPatient=where)]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.save_as(path, enforce_file_format=True)
    return path


def _item(**tags: Any) -> Dataset:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item
