"""Pixels of DICOM frames: decoded, rescaled, in the smallest type that holds them exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import psutil

from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom_scan import DAMAGE, Frame, words_of
from napari_attnseg.io.limits import MAX_RATIO, check_claim, readable_bytes

NATIVE = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
)
"""Transfer syntaxes that store pixels as they are; deflate is packed like a compression."""
EXTRA = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
"""JPEG-LS: its decoder comes with the extra ``dicom``. JPEG, JPEG 2000 and RLE need none."""
IN_UNITS = ("CT", "PT")
"""Modalities whose rescaled values have a unit."""
PLUGIN = re.compile(r"pylibjpeg-\w+")


def pixels_of(frames: Sequence[Frame | None]) -> tuple[np.ndarray, list[str]]:
    """(slices, rows, columns) or, in colour, with a last axis of 3; blank where a frame is
    ``None``. Notes say what was turned around or left blank.

    Whole slopes and intercepts keep whole numbers; any other gives float32. Raises
    ``InputError`` for claims that the files cannot hold, and for what cannot be decoded.
    """
    there = [f for f in frames if f is not None]
    first = there[0]
    _check_alike(there)
    for frame in {f.file: f for f in there}.values():
        _check_syntax(frame)
        ratio = 1.0 if frame.syntax in NATIVE else MAX_RATIO
        check_claim(frame.file, _bytes(frame) * frame.frames, ratio)
    dtype = _target(there)
    colour = (3,) if first.samples == 3 else ()
    shape = (len(frames), first.rows, first.columns, *colour)
    need, free = int(np.prod(shape, dtype=object)) * dtype.itemsize, _free()
    if need > free:
        raise InputError(
            f"this series needs {readable_bytes(need)} of memory but only {readable_bytes(free)} "
            "are free; close other programs, or take a part of it"
        )
    data = np.empty(shape, dtype)
    for number, one in enumerate(frames):
        if one is not None:
            data[number] = _scaled(_decoded(one), one, dtype)
    blank = [i for i, f in enumerate(frames) if f is None]
    if blank:
        data[blank] = min(data[i].min() for i, f in enumerate(frames) if f is not None)
    if dtype.kind == "f" and not np.isfinite(data).all():
        raise InputError(f"{first.file.name} has values that are not numbers; export it again")
    return data, _white_words(first)


def _white_words(frame: Frame) -> list[str]:
    if frame.photometric != "MONOCHROME1":
        return []
    if _turned_round(frame):
        return ["stored with white as the lowest value: turned around"]
    return ["to be shown with white as the lowest value: values are kept"]


def _turned_round(frame: Frame) -> bool:
    """Whether values are turned so that bright is much: where they stand for brightness alone. HU
    and uptake mean what they mean, however they are to be shown."""
    return frame.photometric == "MONOCHROME1" and frame.modality not in IN_UNITS


def _free() -> int:
    return int(psutil.virtual_memory().available)


def _bytes(frame: Frame) -> int:
    bits = frame.rows * frame.columns * frame.samples * frame.bits[0]
    return bits // 8


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    if not first.rows or not first.columns:
        raise InputError(f"{first.file.name} has no pixels (0 rows or columns); export it again")
    if first.samples not in (1, 3) or first.photometric == "PALETTE COLOR":
        raise InputError(
            f"{first.file.name} stores {first.photometric} with {first.samples} samples; expected "
            "grey or RGB, convert the series first"
        )
    for frame in frames:
        if frame.photometric != first.photometric:
            raise InputError(
                f"{frame.file.name} is {frame.photometric} but {first.file.name} is "
                f"{first.photometric}; expected one kind of image in a series"
            )


def _check_syntax(frame: Frame) -> None:
    """Say what is missing before anything is read."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    if frame.syntax in NATIVE or frame.syntax == "1.2.840.10008.1.2.1.99":
        return
    try:
        available = get_decoder(UID(frame.syntax)).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{frame.file.name} is compressed ({UID(frame.syntax).name}) and no decoder for that "
            f"is installed: {_remedy(frame.syntax)}convert the series with dcmdjpeg or dcm2niix"
        )


def _remedy(syntax: str) -> str:
    """What to install for a transfer syntax, as pydicom names it; empty if nothing decodes it."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    if syntax in EXTRA:
        return "pip install napari-attnseg[dicom], or "
    try:
        needed = " ".join(get_decoder(UID(syntax)).missing_dependencies)
    except NotImplementedError:
        return ""
    plugin = PLUGIN.search(needed)
    return f"pip install pylibjpeg {plugin[0]}, or " if plugin else ""


def _decoded(frame: Frame) -> np.ndarray:
    from pydicom.pixels import pixel_array

    try:
        index = frame.index if frame.frames > 1 else None
        array = np.asarray(pixel_array(frame.file, index=index))
    except (*DAMAGE, OSError) as error:
        raise InputError(
            f"the pixels of {frame.file.name} are damaged or cut short ({words_of(error)}); "
            "copy or export the series again"
        ) from error
    colour = (3,) if frame.samples == 3 else ()
    return array.reshape(frame.rows, frame.columns, *colour)


def _range(frame: Frame) -> tuple[int, int]:
    """Lowest and highest value that the stored bits can hold."""
    _, stored, signed = frame.bits
    return (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)


def _target(frames: Sequence[Frame]) -> np.dtype:
    """The smallest type that holds every value that the stored bits may mean."""
    ends = [_range(f)[i] * f.slope + f.intercept for f in frames for i in (0, 1)]
    whole = all(f.slope % 1 == 0 and f.intercept % 1 == 0 for f in frames)
    if frames[0].bits[0] > 16:  # 32-bit numbers, whole or real
        return np.dtype(np.float64)
    if not whole:
        return np.dtype(np.float32)
    low, high = min(ends), max(ends)
    for name in ("uint8", "int16", "uint16", "int32"):
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype(np.int64)


def _scaled(raw: np.ndarray, frame: Frame, dtype: np.dtype) -> np.ndarray:
    if _turned_round(frame):
        raw = sum(_range(frame)) - raw.astype(np.int64)
    if frame.slope == 1 and frame.intercept == 0:
        return raw.astype(dtype)
    if dtype.kind in "iu":
        wide = np.int32 if dtype.itemsize <= 2 else np.int64
        values = raw.astype(wide)
        if frame.slope != 1:
            np.multiply(values, int(frame.slope), out=values)
        return np.add(values, int(frame.intercept), out=values).astype(dtype)
    return (raw.astype(np.float64) * frame.slope + frame.intercept).astype(dtype)
