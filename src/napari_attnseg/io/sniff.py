"""What a file is, told by its first bytes and never by its name."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from napari_attnseg.errors import InputError

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"NRRD000", "nrrd"),
)
READABLE = "NIfTI, DICOM, OME-Zarr, NRRD, MetaImage, PNG, JPEG, GIF, TIFF or BMP"
SUFFIXES: tuple[str, ...] = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"),
)
"""Endings of files that are an image each (a slice of DICOM is not)."""
OTHER_SUFFIXES = (".dcm", ".ome.zarr", ".zarr")
SPACED = ("nifti", "dicom", "zarr", "nrrd", "meta")
"""Kinds that say where their voxels lie."""


def stem_of(path: Path) -> str:
    """File name without its image suffix (``scan.nii.gz`` gives ``scan``)."""
    lower = path.name.lower()
    for suffix in (*SUFFIXES, *OTHER_SUFFIXES):
        if lower.endswith(suffix) and len(lower) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def sniff(path: Path) -> str:
    """``"nifti"``, ``"dicom"`` (a folder of slices too), ``"zarr"`` (a folder), ``"nrrd"``,
    ``"meta"`` (MetaImage), ``"png"``, ``"jpeg"``, ``"gif"``, ``"bmp"`` or ``"tiff"``.

    Raises ``InputError`` when the file is absent, empty, unreadable or something else, and for a
    folder that is none of these.
    """
    if path.is_dir():
        return _folder_kind(path)
    head = _head(path)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    if head.startswith(b"\x1f\x8b"):
        head = _gunzipped_head(path)
    if _is_nifti(head):
        return "nifti"
    if head[128:132] == b"DICM":
        return "dicom"
    if _is_meta(head):
        return "meta"
    raise InputError(_foreign(path, head))


def is_gzip(path: Path) -> bool:
    """Whether the file is gzip compressed, whatever its name says."""
    return _head(path).startswith(b"\x1f\x8b")


def _folder_kind(path: Path) -> str:
    from napari_attnseg.io.dicom_scan import holds_dicom
    from napari_attnseg.io.ome_zarr import is_zarr

    if is_zarr(path):
        return "zarr"
    if holds_dicom(path):
        return "dicom"
    raise InputError(
        f"got {path}, which is a folder; expected an image file, an OME-Zarr or a folder of "
        "DICOM slices"
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(600)
    except FileNotFoundError:
        raise InputError(f"got {path}, which does not exist; expected an image file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise InputError(f"got {path.name}, which is empty (0 bytes); copy or download it again")
    return head


def _gunzipped_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(600)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"got {path.name}, whose compressed data is damaged or cut short; "
            "copy or download it again"
        ) from error


def _is_nifti(head: bytes) -> bool:
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return True
    return head[4:8] in (b"n+2\0", b"ni2\0")


def _is_meta(head: bytes) -> bool:
    """Whether the first field of a MetaImage header is there; comments may go before it."""
    lines = [line.partition(b"=")[0].strip() for line in head.splitlines()[:8]]
    return b"NDims" in lines and b"=" in head and lines[0] in (b"ObjectType", b"NDims", b"Comment")


def _foreign(path: Path, head: bytes) -> str:
    if head.startswith((b"\x89HDF", b"CDF")):
        return f"got {path.name}, an HDF5 or NetCDF file; convert it to NIfTI first"
    if path.name.lower().endswith(SUFFIXES):
        return (
            f"got {path.name}, whose content is not what its name says, or whose beginning is "
            f"damaged or cut short; expected {READABLE}, copy or export it again"
        )
    return f"got {path.name}, which is not an image this program reads; expected {READABLE}"
