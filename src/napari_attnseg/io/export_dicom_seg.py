"""DICOM-SEG: a mask as segments that refer to every slice of the series they were made from.

highdicom writes, pydicom reads again: each frame is put back where its own header says it lies.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import ExportError
from napari_attnseg.io.dicom_seg import COMMENT, CREATOR, GROUP, PLACE
from napari_attnseg.io.dicom_seg import comment_of as comment_of
from napari_attnseg.io.directions import LPS, SIGNS
from napari_attnseg.io.export import Job
from napari_attnseg.io.read_back import differs, reading_back
from napari_attnseg.io.volume import Volume

MOST = 255
"""Segments of one file."""
CLOSE_MM = 1e-3
EXTRA = (
    "writing DICOM-SEG needs highdicom: pip install napari-attnseg[dicom], or export .nii.gz "
    "instead"
)


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """Everything decided before a byte is written."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ExportError(EXTRA) from error
    if source is None or source.kind != "dicom" or source.geometry is None:
        raise ExportError(
            "a DICOM-SEG refers to the DICOM series it was made from, and this mask has none; "
            "export .nii.gz"
        )
    if array_ZYX.dtype.kind != "u":
        raise ExportError("a DICOM-SEG holds ids, not real numbers; export .nii.gz")
    ids = source.to_file_order(array_ZYX)
    _check_missing(ids, source)
    comment = json.loads(text)
    segments = _segments(ids, comment)
    file = _made(ids, source, segments, comment, text)

    def write(path: Path) -> None:
        file.save_as(path)

    def verify(path: Path) -> bool:
        return _verify(path, ids, source, segments)

    words = f"same place in the patient, {len(segments)} segment{'s'[: len(segments) != 1]}"
    return Job(ids.shape, write, verify, words)


def _check_missing(ids: np.ndarray, source: Volume) -> None:
    for k, at in enumerate(source.slices):
        if at is None and ids[:, :, k].any():
            raise ExportError(
                f"slice {k} is missing in the series but the mask marks it, and a DICOM-SEG cannot "
                "refer to it; clear the mask there or export .nii.gz"
            )


def _segments(ids: np.ndarray, comment: dict[str, Any]) -> dict[int, str]:
    """Name of every id: the classes, and what else is drawn."""
    names = {int(i): str(name) for i, name in comment.get("classes", {}).items() if int(i)}
    drawn = {int(i) for i in np.flatnonzero(np.bincount(ids.ravel(order="K"))) if i}
    found = {i: names.get(i, f"id {i}") for i in sorted(drawn | set(names))}
    if not found:
        raise ExportError("the mask is empty and no class is named; there is no segment to write")
    if len(found) > MOST:
        raise ExportError(
            f"the mask has {len(found)} ids; a DICOM-SEG takes up to {MOST}, export .nii.gz"
        )
    return found


def _made(
    ids: np.ndarray, source: Volume, segments: dict[int, str], comment: dict[str, Any], text: str
) -> Any:
    """The file, in memory: pixels bit by bit, so an eighth of a byte per voxel and segment."""
    images, order = _source_images(source)
    look = np.zeros(max(segments) + 1, np.uint8)
    look[list(segments)] = np.arange(1, len(segments) + 1)
    pixels = look[ids.transpose(2, 1, 0)[order]]
    try:
        with warnings.catch_warnings():  # of names of patients, which are not ours to mend
            warnings.simplefilter("ignore", UserWarning)
            made = _segmentation(images, pixels, segments, comment)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"the series cannot carry a DICOM-SEG ({words[:120]}); export .nii.gz"
        ) from error
    block = made.private_block(GROUP, CREATOR, create=True)
    block.add_new(COMMENT, "UT", text)
    block.add_new(PLACE, "UT", _place(source, segments))
    return made


def _place(source: Volume, segments: dict[int, str]) -> str:
    """The grid of the series and the id behind every segment: a reader has both exactly again,
    also where nothing is drawn on the outer slices."""
    assert source.geometry is not None
    affine = source.geometry.affine.tolist()
    return json.dumps({"affine": affine, "slices": source.data.shape[2], "ids": list(segments)})


def _segmentation(
    images: list[Any], pixels: np.ndarray, segments: dict[int, str], comment: dict[str, Any]
) -> Any:
    import highdicom as hd
    from pydicom.uid import generate_uid

    from napari_attnseg import __version__

    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(segments, comment, __version__),
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="napari-attnseg developers",
        manufacturer_model_name="napari-attnseg",
        software_versions=__version__,
        device_serial_number="0",
        content_description="Segmentation",
        content_label="SEGMENTATION",
        series_description="Segmentation by napari-attnseg",
    )


def _source_images(source: Volume) -> tuple[list[Any], list[int]]:
    """Headers of the source's files, and the slices (of the volume) in the order of their frames.

    Values that a header must have but may leave empty are added empty, in memory.
    """
    import pydicom

    there = [(at, k) for k, at in enumerate(source.slices) if at is not None]
    files = {at[0]: None for at, _ in there}
    several_frames = len(files) < len(there)
    if several_frames and len(files) > 1:
        raise ExportError(
            "the series is spread over several files of many frames each; export .nii.gz"
        )
    if several_frames:
        there.sort(key=lambda item: item[0][1])
    images = []
    for file in files:
        try:
            image = pydicom.dcmread(file, defer_size=1024)
        except Exception as error:
            raise ExportError(
                f"{file.name} of the series cannot be read any more ({error}); export .nii.gz, or "
                "bring the series back"
            ) from error
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"):
            if name not in image:
                setattr(image, name, "")
        for name in ("AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName"):
            if name not in image:
                setattr(image, name, "")
        images.append(image)
    return images, [k for _, k in there]


def _descriptions(segments: dict[int, str], comment: dict[str, Any], version: str) -> list[Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    made = comment.get("provenance") or {}
    edited = bool(made.get("edits") or made.get("hand_edited_pixels"))
    algorithm = hd.AlgorithmIdentificationSequence(
        name=str(made.get("model") or "napari-attnseg")[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=str(made.get("model_digest") or version)[:64],
    )
    found = []
    for number, (value, name) in enumerate(segments.items(), 1):
        category, kind = _codes_of(name)
        color = comment.get("colors", {}).get(str(value))
        found.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC",
                algorithm_identification=algorithm,
                display_color=None if not color else hd.color.CIELabColor.from_string(color),
            )
        )
    return found


def _codes_of(name: str) -> tuple[Any, Any]:
    """SNOMED codes: of the organ where the name is one, else plainly tissue."""
    from pydicom.sr.codedict import codes

    key = "".join(word.capitalize() for word in name.replace("_", " ").split())
    code = getattr(codes.SCT, key, None) if key.isalpha() else None
    return (codes.SCT.Organ, code) if code is not None else (codes.SCT.Tissue, codes.SCT.Tissue)


def _verify(path: Path, ids: np.ndarray, source: Volume, segments: dict[int, str]) -> bool:
    """Whether places are the source's to the last digit; raises ``ExportError`` on a mismatch."""
    import pydicom

    with reading_back("DICOM-SEG"):
        file = pydicom.dcmread(path)
        names = [str(item.SegmentLabel) for item in file.SegmentSequence]
        found, off = _read_again(file, ids.shape, source, list(segments))
    if off > CLOSE_MM:
        raise ExportError(
            f"the written frames lie {off:.3g} mm away from their slices; nothing was changed"
        )
    if not np.array_equal(found, ids):
        raise differs("pixels")
    if names != [name[:64] for name in segments.values()]:
        raise differs("names")
    return off == 0.0


def _read_again(
    file: Any, shape: tuple[int, ...], source: Volume, values: list[int]
) -> tuple[np.ndarray, float]:
    """Ids (columns, rows, slices), every frame where its own header places it, and how far (mm)
    the worst corner lies from the source's."""
    assert source.geometry is not None
    signs = np.array(SIGNS[LPS])
    steps, origin = (signs * source.geometry.affine[:3].T).T[:, :3], source.geometry.affine[:3, 3]
    places = signs * origin + np.arange(shape[2])[:, None] * steps[:, 2]
    frames = file.pixel_array.reshape(-1, shape[1], shape[0])
    found = np.zeros(shape, np.uint8 if max(values) < 256 else np.uint16)
    shared = file.SharedFunctionalGroupsSequence[0]
    off = 0.0
    for frame, group in zip(frames, file.PerFrameFunctionalGroupsSequence, strict=True):
        at = _of(group, shared, "PlanePositionSequence", "ImagePositionPatient")
        apart = np.linalg.norm(places - at, axis=1)
        k = int(apart.argmin())
        turn = _of(group, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
        size = _of(group, shared, "PixelMeasuresSequence", "PixelSpacing")
        across = (turn[:3] * size[1] - steps[:, 0]) * (shape[0] - 1)
        down = (turn[3:] * size[0] - steps[:, 1]) * (shape[1] - 1)
        off = max(off, float(apart[k]), float(np.abs(across).max()), float(np.abs(down).max()))
        number = int(_of(group, shared, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))
        found[:, :, k][frame.T > 0] = values[number - 1]
    return found, off


def _of(group: Any, shared: Any, sequence: str, name: str) -> np.ndarray:
    item = (group.get(sequence) or shared.get(sequence))[0]
    return np.array(item.get(name), float)
