"""TIFF and PNG export: ids as grey values, resolution kept, class names inside.

A stack whose voxel size is known is an ImageJ stack, which is how TIFF readers know a distance
between slices; our comment is then its ``Info``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import Job
from napari_attnseg.io.read_back import differs, reading_back
from napari_attnseg.io.volume import Volume

PNG_KEY = "napari-attnseg"
IMAGEJ = ("uint8", "uint16", "float32")
"""Types that ImageJ knows."""
CLOSE = 1e-6
"""Share of a size: in TIFF a resolution is a fraction of whole numbers."""


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """PNG for one slice; TIFF for one slice or a stack."""
    flat = len(array_ZYX) == 1
    if suffix == ".png" and not flat:
        raise ExportError(
            f"got {len(array_ZYX)} slices for a PNG, which holds one; expected .nii.gz or .tif"
        )
    data = np.ascontiguousarray(array_ZYX[0] if flat else array_ZYX)
    save = _save_png if suffix == ".png" else _save_tiff
    load = _load_png if suffix == ".png" else _load_tiff

    def write(path: Path) -> None:
        save(path, data, source, text)

    def verify(path: Path) -> bool:
        with reading_back():
            again = load(path)
        if again.dtype != data.dtype or not np.array_equal(again, data):
            raise differs("pixels")
        if suffix != ".png" and (spacing := _spaced(data, source)):
            _check_size(path, spacing)
        return True

    return Job(data.shape, write, verify)


def _save_png(path: Path, data: np.ndarray, source: Volume | None, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text(PNG_KEY, text)
    Image.fromarray(data).save(path, format="PNG", pnginfo=info)


def _load_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        return np.array(image)


def _save_tiff(path: Path, data: np.ndarray, source: Volume | None, text: str) -> None:
    spacing = _spaced(data, source)
    if spacing:
        tifffile.imwrite(
            path,
            data,
            imagej=True,
            byteorder="<",
            compression="zlib",
            photometric="minisblack",
            software="napari-attnseg",
            resolution=(1 / spacing[2], 1 / spacing[1]),
            resolutionunit="NONE",  # pixels per unit of the description
            metadata={"axes": "ZYX", "spacing": spacing[0], "unit": "mm", "Info": text},
        )
        return
    options: dict[str, Any] = {}
    resolution = source.resolution if source else None
    spacing = source.spacing_mm if source else ()
    if resolution is not None and resolution.unit != "NONE":
        options["resolution"] = (resolution.x, resolution.y)
        options["resolutionunit"] = resolution.unit
    elif spacing:
        options["resolution"] = (10 / spacing[2], 10 / spacing[1])
        options["resolutionunit"] = "CENTIMETER"
    axes = "YX" if data.ndim == 2 else "ZYX"
    metadata = {"axes": axes, **json.loads(text)}
    if spacing:
        metadata["spacing_mm"] = list(spacing)
    tifffile.imwrite(
        path,
        data,
        compression="zlib",
        photometric="minisblack",
        metadata=metadata,
        software="napari-attnseg",
        **options,
    )


def _spaced(data: np.ndarray, source: Volume | None) -> tuple[float, ...]:
    """The voxel size (Z, Y, X) in mm of what becomes an ImageJ stack; empty for all others."""
    known = source is not None and data.ndim == 3 and data.dtype.name in IMAGEJ
    return tuple(float(s) for s in source.spacing_mm) if known and source is not None else ()


def _check_size(path: Path, spacing: tuple[float, ...]) -> None:
    """Whether another reader would find the voxel size; raises ``ExportError``."""
    with reading_back(), tifffile.TiffFile(path) as file:
        told: dict[str, Any] = file.imagej_metadata or {}
        tags = file.pages.first.tags
        per_mm = [tags[f"{axis}Resolution"].value for axis in "YX"]
        found = (float(told.get("spacing", 0)), *(b / a for a, b in per_mm))
    if told.get("unit") != "mm" or not np.allclose(found, spacing, rtol=CLOSE, atol=0):
        raise differs("voxel sizes")


def _load_tiff(path: Path) -> np.ndarray:
    return np.asarray(tifffile.imread(path))
