"""NIfTI export: the source's header bytes, another data type, the same affine."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension

from napari_attnseg.geometry import Geometry
from napari_attnseg.io.export import Job
from napari_attnseg.io.nifti import LABEL_INTENT, affine_mm
from napari_attnseg.io.read_back import differs, reading_back
from napari_attnseg.io.volume import Volume

COMMENT = 6
"""NIfTI extension code for plain text."""
DESCRIPTION = "napari-attnseg"
FREE_TEXT = ("data_type", "db_name", "aux_file", "intent_name")
"""Fields of the source that anybody may have written anything into. Its extensions do not come into
:attr:`Volume.header` at all."""
XFORM_ALIGNED = 2
NIFTI1_LONGEST = 32767


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """Everything decided before a byte is written."""
    data, affine = placed(array_ZYX, source)
    header = _header(data, affine, source, text)
    expected = header.get_best_affine()
    exact = bool(np.array_equal(affine_mm(header), affine))
    codes = int(header["qform_code"]), int(header["sform_code"])

    def write(path: Path) -> None:
        _write(path, suffix, header, data)

    def verify(path: Path) -> bool:
        _verify(path, data, expected, codes)
        return exact

    return Job(data.shape, write, verify, place_words(source, exact))


def place_words(source: Volume | None, exact: bool) -> str:
    """What the verdict says about the place, and what of it was assumed."""
    if source is None or source.geometry is None:
        size = "its voxel size" if source and source.spacing_mm else "voxels of 1 mm"
        return f"space assumed: as on the screen, {size}, no header to say where left is"
    place = "same place in the world" + ("" if exact else " (float32)")
    return f"{place} (space assumed: {source.assumed})" if source.assumed else place


def placed(array_ZYX: np.ndarray, source: Volume | None) -> tuple[np.ndarray, np.ndarray]:
    """The array in file order and the affine (RAS+ mm) that it is written with."""
    if source is not None and source.geometry is not None:
        return source.to_file_order(array_ZYX), source.geometry.affine
    # without a space: i runs left, j posterior, k up, so that it looks as it did on the screen
    z, y, x = (source.spacing_mm if source else ()) or (1.0, 1.0, 1.0)
    return array_ZYX.transpose(2, 1, 0), np.diag([-x, -y, z, 1.0])


def _header(
    data: np.ndarray, affine: np.ndarray, source: Volume | None, text: str
) -> nib.Nifti1Header:
    header = _start(affine, source, max(data.shape))
    header.set_data_dtype(data.dtype)
    sizes = header["pixdim"].copy()
    header.set_data_shape(data.shape)
    header["pixdim"] = sizes  # nibabel sets those past the shape to 1: a slice lost its thickness
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    if isinstance(header, nib.Nifti2Header):
        header["magic"] = b"n+2"
    else:
        header["magic"] = b"n+1"
    for field in FREE_TEXT:  # patients' names, places of files: a mask is passed on sooner
        if field in header:
            header[field] = b""
    header["descrip"] = DESCRIPTION.encode()
    is_ids = data.dtype.kind == "u"
    header["intent_code"] = LABEL_INTENT if is_ids else 0
    header.extensions.append(Nifti1Extension(COMMENT, text.encode()))
    header["vox_offset"] = _offset(header)
    return header


def _start(affine: np.ndarray, source: Volume | None, longest: int) -> Any:
    """The source's header, or a new one: NIfTI-1 unless an axis is too long for it."""
    if source is not None and source.header is not None:
        kind = nib.Nifti2Header if len(source.header) == 540 else nib.Nifti1Header
        return kind(source.header).as_byteswapped("<")
    header = (nib.Nifti1Header if longest <= NIFTI1_LONGEST else nib.Nifti2Header)(endianness="<")
    geometry: Geometry | None = source.geometry if source else None
    header.set_data_shape((1, 1, 1))
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, code=(geometry.sform_code if geometry else 0) or XFORM_ALIGNED)
    header.set_xyzt_units("mm")
    return header


def _offset(header: Any) -> int:
    block = 544 if isinstance(header, nib.Nifti2Header) else 352
    return block + sum(e.get_sizeondisk() for e in header.extensions)


def _write(path: Path, suffix: str, header: Any, data: np.ndarray) -> None:
    with path.open("wb") as raw:
        # no name and no time inside: equal masks give equal files
        packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if suffix == ".nii.gz" else None
        file: Any = packed or raw
        header.write_to(file)
        missing = int(header["vox_offset"]) - file.tell()
        file.write(b"\0" * missing)
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        for k in range(data.shape[-1]):  # slice by slice: no second copy of the volume
            file.write(little[..., k].tobytes(order="F"))
        if packed:
            packed.close()


def _verify(path: Path, data: np.ndarray, affine: np.ndarray, codes: tuple[int, int]) -> None:
    """Read with nibabel's own image class, which took no part in writing."""
    with reading_back():
        image: Any = nib.load(path, keep_file_open=True)
        same = _same(image.dataobj, data)
        found = image.affine
        header = image.header
    if not same:
        raise differs("voxels")
    same_codes = (int(header["qform_code"]), int(header["sform_code"])) == codes
    if not np.array_equal(found, affine) or not same_codes:
        raise differs("places")


def _same(stored: Any, data: np.ndarray) -> bool:
    """Slice by slice, in the order of the file: never a second volume in memory."""
    if stored.shape != data.shape:
        return False
    if data.ndim < 3:
        parts = iter([(np.asarray(stored), data)])
    else:
        parts = ((np.asarray(stored[..., k]), data[..., k]) for k in range(data.shape[-1]))
    return all(a.dtype == data.dtype and np.array_equal(a, b) for a, b in parts)
