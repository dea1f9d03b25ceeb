"""Which paths are one image each: files, DICOM folders, OME-Zarr folders."""

from __future__ import annotations

from pathlib import Path

from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom_scan import holds_dicom, is_dicom
from napari_attnseg.io.ome_zarr import is_zarr
from napari_attnseg.io.sniff import SUFFIXES, sniff

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
LOOKED_AT = 50


def is_one_image(folder: Path) -> bool:
    """Whether a folder is an image itself: OME-Zarr, or DICOM slices right inside it."""
    if not folder.is_dir():
        return False
    return is_zarr(folder) or _has_slices(folder)


def _has_slices(folder: Path) -> bool:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    others = sum(p.name.lower().endswith(SUFFIXES) for p in files[:LOOKED_AT])
    return sum(is_dicom(p) for p in files[:LOOKED_AT]) > others


def images_in(folder: Path) -> list[Path]:
    """The images right inside a folder by name: files, and folders that are or hold one (DICOM of
    a patient, OME-Zarr). Hidden ones are left out."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if is_zarr(path) or holds_dicom(path):
                found.append(path)
        elif path.name.lower().endswith(SUFFIXES):
            found.append(path)
    return found


def mask_suffix(path: Path) -> str:
    """The format of an image's mask: OME-Zarr for OME-Zarr, TIFF for stacks of TIFF, NIfTI for
    every other volume, PNG for pictures. Told by the name and the kind of folder, of TIFF by the
    header (a PNG holds one slice)."""
    if is_zarr(path):
        return ".ome.zarr"
    named = path.name.lower().endswith((*VOLUMES, ".dcm"))
    if named or path.is_dir() or is_dicom(path):
        return ".nii.gz"
    return ".tif" if _is_stack(path) else ".png"


def _is_stack(path: Path) -> bool:
    """Whether this is a readable TIFF of several slices; what is wrong with one that is not
    readable is said when its turn comes."""
    from napari_attnseg.io.tiff import size_of

    try:
        return sniff(path) == "tiff" and size_of(path)[0] > 1
    except InputError:
        return False
