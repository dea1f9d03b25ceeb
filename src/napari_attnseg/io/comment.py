"""What one of our masks says inside: classes, colours, provenance; of any format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.dicom_scan import is_dicom
from napari_attnseg.io.ome_zarr import is_zarr

TEXT = 6
"""Code of a NIfTI extension of plain text."""
MINE = {"provenance", "classes"}
TABLES = {*MINE, "colors"}
"""Entries that are tables; another program may use the same words for something else."""


def comment_of(mask: Path) -> dict[str, Any]:
    """The comment of a mask; ``{}`` for a file that is not ours or cannot be read. Of a DICOM-SEG
    of another maker the classes. ``provenance`` is there only where the maker told it."""
    try:
        found = _comment(mask)
    except (AttnSegError, OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
    return {k: v for k, v in found.items() if k not in TABLES or isinstance(v, dict)}


def _comment(mask: Path) -> dict[str, Any]:
    name = mask.name.lower()
    for endings, texts in TEXTS:
        if name.endswith(endings):
            return _first(texts(mask))
    from napari_attnseg.io import dicom_seg, export_meta, export_nrrd, export_ome_zarr

    if is_zarr(mask):
        return export_ome_zarr.comment_of(mask)
    if name.endswith(".nrrd"):
        return export_nrrd.comment_of(mask)
    if name.endswith(".mha"):
        return export_meta.comment_of(mask)
    return dicom_seg.comment_of(mask) if mask.is_dir() or is_dicom(mask) else {}


def _first(texts: Iterator[str]) -> dict[str, Any]:
    """The first text that is a comment of ours."""
    for text in texts:
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict) and not MINE.isdisjoint(found):
            return found
    return {}


def _nifti_texts(mask: Path) -> Iterator[str]:
    import nibabel as nib

    header: Any = nib.load(mask).header
    for extension in header.extensions:
        if extension.get_code() == TEXT:
            text = extension.get_content()
            plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            yield plain.rstrip("\0")


def _tiff_texts(mask: Path) -> Iterator[str]:
    import tifffile

    with tifffile.TiffFile(mask) as file:
        yield str(getattr(file.pages.first, "description", ""))
        yield str((file.imagej_metadata or {}).get("Info", ""))


def _png_texts(mask: Path) -> Iterator[str]:
    from PIL import Image

    with Image.open(mask) as image:
        yield str(getattr(image, "text", {}).get("napari-attnseg", ""))


TEXTS: tuple[tuple[tuple[str, ...], Callable[[Path], Iterator[str]]], ...] = (
    ((".nii", ".nii.gz"), _nifti_texts),
    ((".tif", ".tiff"), _tiff_texts),
    ((".png",), _png_texts),
)
"""Formats that hold the comment as a text among others, and where."""
