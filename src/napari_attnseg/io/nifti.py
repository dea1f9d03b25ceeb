"""Read NIfTI-1 and NIfTI-2 (.nii, .nii.gz): array order, affine and header stay as they are."""

from __future__ import annotations

import logging
import math
import zlib
from pathlib import Path
from typing import IO, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.doubts import assumed_space, doubts_of, trailing_note
from napari_attnseg.io.limits import check_claim, check_numbers
from napari_attnseg.io.many import chosen
from napari_attnseg.io.padded import open_gzip
from napari_attnseg.io.sniff import is_gzip
from napari_attnseg.io.units import nifti_unit
from napari_attnseg.io.volume import Volume

Header: TypeAlias = nib.Nifti1Header  # Nifti2Header is a subclass
LABEL_INTENT = 1002
DEFLATE_RATIO = 1032.0
CHUNK = 1 << 24
DAMAGE = (
    HeaderDataError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    KeyError,
    OverflowError,
    np.linalg.LinAlgError,
)


def open_stream(path: Path) -> IO[bytes]:
    """The uncompressed bytes of the file."""
    return open_gzip(path) if is_gzip(path) else path.open("rb")


class _Repairs(logging.Logger):
    """What nibabel put right in a header, kept for the note instead of printed."""

    def __init__(self) -> None:
        super().__init__("napari_attnseg.io")
        self.said: list[str] = []

    def handle(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and "SPM" not in record.getMessage():
            self.said.append(record.getMessage())


def read_header(path: Path, repairs: list[str] | None = None) -> Header:
    """The checked header; what had to be repaired is appended to ``repairs``.

    Raises ``InputError`` for a damaged header and for .hdr/.img pairs.
    """
    log = _Repairs()
    try:
        with open_stream(path) as file:
            start = file.read(8)
            file.seek(0)
            kind = nib.Nifti2Header if start[4:8] in (b"n+2\0", b"ni2\0") else Header
            block = file.read(540 if kind is nib.Nifti2Header else 348)
        with np.errstate(all="ignore"):  # what is not finite is refused with a sentence
            header = kind(block, check=False)
            _check_layout(header)
            header.check_fix(logger=log)
            header.get_data_offset(), header.get_slope_inter(), header.get_best_affine()
            shape = header.get_data_shape()
    except DAMAGE as error:
        raise InputError(
            f"the NIfTI header of {path.name} is damaged ({_words(error)}); "
            "copy, download or export the file again"
        ) from error
    if repairs is not None:
        repairs += log.said
    if bytes(header["magic"].item())[:3] in (b"ni1", b"ni2"):
        raise InputError(
            f"{path.name} is one half of a .hdr/.img pair; save it as a single .nii or .nii.gz file"
        )
    if not shape or min(shape) <= 0:
        raise InputError(
            f"{path.name} has no voxels (its size is {tuple(shape)}); export the image again"
        )
    return header


def _check_layout(header: Header) -> None:
    """The fields that say how to read the others; nibabel would put them right in silence."""
    size = int(header["sizeof_hdr"])
    if size != header.sizeof_hdr:
        raise HeaderDataError(f"its length is given as {size}, not {header.sizeof_hdr}")
    bits, told = header.get_data_dtype().itemsize * 8, int(header["bitpix"])
    if told not in (0, bits):
        raise HeaderDataError(f"a voxel of its data type has {bits} bits, its header says {told}")


def says_label(block: bytes) -> bool:
    """Whether the header (348 or 540 bytes) states the intent *label*."""
    kind = nib.Nifti2Header if len(block) == 540 else Header
    return int(kind(block, check=False)["intent_code"]) == LABEL_INTENT


def spatial_shape(header: Header) -> tuple[tuple[int, ...], int]:
    """(I, J[, K]) and the number of volumes behind it; axes of length 1 at the end are dropped."""
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) == 1:
        shape = (*shape, 1)
    return shape[:3], math.prod(shape[3:])


def geometry_of(header: Header) -> Geometry:
    """The best affine of the header (sform, else qform, else voxel sizes) as a ``Geometry``, in
    millimetres whatever the header's unit of length is."""
    shape, _ = spatial_shape(header)
    return Geometry(
        affine_mm(header),
        (*shape, 1)[:3],  # type: ignore[arg-type]
        int(header["qform_code"]),
        int(header["sform_code"]),
    )


def affine_mm(header: Header) -> np.ndarray:
    """The best affine of the header (4, 4), metres and micrometres put into millimetres."""
    affine = np.array(header.get_best_affine(), np.float64)
    affine[:3] *= nifti_unit(header["xyzt_units"])[1]
    return affine


def read_nifti(path: str | Path, volume: int | None = None) -> Volume:
    """One volume in file order with its geometry.

    ``volume`` chooses from a 4D file (from 0); without it such a file raises ``ManyVolumes``.
    Integers stay integers, also under a whole-numbered slope and intercept; other scaled data
    become float32. Raises ``InputError`` for damaged, truncated, empty or non-finite data.
    """
    path = Path(path)
    notes: list[str] = []
    header = read_header(path, notes)
    shape, count = spatial_shape(header)
    index = chosen(path, count, volume)
    geometry = geometry_of(header)
    raw, left = _read_raw(path, header, shape, count, index)
    rgb = raw.dtype.names is not None
    if rgb:
        data = np.stack([raw[c] for c in "RGB"], axis=-1)
    else:
        check_numbers(path, raw)
        data = scaled(raw, *header.get_slope_inter())
        check_numbers(path, data)
    notes = [f"repaired in the header: {words}" for words in notes]
    notes += doubts_of(header, shape) + trailing_note(left)
    if count > 1:
        notes.append(f"volume {index} of {count}")
    words = "; ".join(notes)
    block = header.binaryblock
    part = index if count > 1 else None
    assumed = assumed_space(header)
    return Volume(data, geometry, rgb, path, block, words, assumed=assumed, part=part)


def _words(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".;") if text else type(error).__name__


def _read_raw(
    path: Path, header: Header, shape: tuple[int, ...], count: int, index: int
) -> tuple[np.ndarray, int]:
    """Unscaled voxels of one volume in native byte order, and the bytes behind the last volume.

    The gzip checksum is verified too.
    """
    dtype = header.get_data_dtype()
    need = math.prod(shape) * dtype.itemsize
    offset = int(header.get_data_offset())
    check_claim(path, need * count + offset, DEFLATE_RATIO if is_gzip(path) else 1.0)
    data = np.empty(shape, dtype, order="F")
    target = memoryview(data.reshape(-1, order="F").view(np.uint8).data)
    try:
        with open_stream(path) as file:
            file.seek(offset + index * need)
            got = _fill(file, target)
            left = -(count - index - 1) * need
            while block := file.read(CHUNK):  # to the end: gzip checks its CRC there
                left += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path.name} is damaged or cut short ({_words(error)}); copy or download it again"
        ) from error
    if got < need:
        raise InputError(
            f"{path.name} is truncated: {got} of {need} bytes of voxels are there; "
            "copy or download it again"
        )
    return data.astype(dtype.newbyteorder("="), copy=False), max(left, 0)


def _fill(file: IO[bytes], target: memoryview) -> int:
    got = 0
    while got < len(target):
        block = file.read(min(CHUNK, len(target) - got))
        if not block:
            break
        target[got : got + len(block)] = block
        got += len(block)
    return got


def scaled(raw: np.ndarray, slope: float | None, inter: float | None) -> np.ndarray:
    """Values from stored ones (native byte order), see :func:`read_nifti` for their type."""
    slope, inter = 1.0 if slope is None else slope, 0.0 if inter is None else inter
    if raw.dtype.kind == "f" and raw.dtype.itemsize > 8:
        raw = raw.astype(np.float64)
    if slope == 1 and inter == 0:
        return raw
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2 and slope % 1 == 0 and inter % 1 == 0:
        largest = abs(slope) * 65536 + abs(inter)
        if largest < 2**31:
            return raw.astype(np.int32) * int(slope) + int(inter)
    with np.errstate(over="ignore"):  # infinities are refused afterwards, with their number
        return (raw.astype(np.float64) * slope + inter).astype(np.float32)
