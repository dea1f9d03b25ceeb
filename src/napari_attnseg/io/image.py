"""Open any supported file: what it is is told by its content, not by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import check_numbers, steady
from napari_attnseg.io.regrid import on_grid
from napari_attnseg.io.sniff import sniff
from napari_attnseg.io.volume import Volume


def read_image(path: str | Path, volume: int | str | None = None) -> Volume:
    """Read NIfTI, DICOM (a folder or any slice of a series), OME-Zarr (pixels are read where they
    are asked for), NRRD, MetaImage, PNG, JPEG, GIF, TIFF or BMP.

    Grey stays grey, colour with three equal channels becomes grey and other colour RGB (an alpha
    channel is left out, with a note unless it is opaque; a palette is looked up); 8, 16 and 32
    bit and float values stay as they are, 1 bit becomes 0 and 255. ``volume`` chooses from a 4D
    NIfTI or from times and channels (number), or from the series of a folder (number or UID).
    Raises ``InputError`` (one sentence) for absent, empty, truncated, corrupt, foreign, oversized
    or non-finite files, and for one that changes while it is read.
    """
    path = Path(path)
    with steady(path):
        return _read(path, sniff(path), volume)


def _read(path: Path, kind: str, volume: int | str | None) -> Volume:
    if kind == "nifti":
        from napari_attnseg.io.nifti import read_nifti

        return read_nifti(path, as_number(path, volume))
    if kind == "dicom":
        from napari_attnseg.io.dicom import read_dicom

        return read_dicom(path, volume)
    if kind == "zarr":
        from napari_attnseg.io.ome_zarr import read_ome_zarr

        return read_ome_zarr(path, as_number(path, volume))
    if kind == "nrrd":
        from napari_attnseg.io.nrrd_file import read_nrrd

        return read_nrrd(path, as_number(path, volume))
    if kind == "meta":
        from napari_attnseg.io.meta_image import read_meta

        return read_meta(path, as_number(path, volume))
    if as_number(path, volume):
        raise InputError(
            f"got volume {volume}, but {path.name} is not a 4D NIfTI; leave the volume out"
        )
    result = _read_tiff(path) if kind == "tiff" else _read_raster(path, kind)
    check_numbers(path, result.data)
    return _grey_where_grey(result)


def as_number(path: Path, volume: int | str | None) -> int | None:
    """The chosen volume where only numbers are known. Raises ``InputError`` for other words."""
    if isinstance(volume, str):
        if not volume.isdecimal():
            raise InputError(f"got volume {volume}, but {path.name} numbers its volumes from 0")
        return int(volume)
    return volume


def image_size(path: str | Path) -> tuple[int, int, int]:
    """(Z, Y, X) in view order from the header alone. Raises ``InputError`` like `read_image`."""
    path = Path(path)
    kind = sniff(path)
    if kind == "nifti":
        from napari_attnseg.io.nifti import geometry_of, read_header

        return geometry_of(read_header(path)).view_shape
    if kind == "dicom":
        from napari_attnseg.io.dicom import dicom_size

        return dicom_size(path)
    if kind == "zarr":
        from napari_attnseg.io.ome_zarr import zarr_size

        return zarr_size(path)
    if kind == "nrrd":
        from napari_attnseg.io.nrrd_file import nrrd_size

        return nrrd_size(path)
    if kind == "meta":
        from napari_attnseg.io.meta_image import meta_size

        return meta_size(path)
    if kind == "tiff":
        from napari_attnseg.io import tiff

        return tiff.size_of(path)
    from napari_attnseg.io import raster

    return (1, *raster.size_of(path))


def require_same_size(image: Volume, mask: Volume) -> None:
    """Raise ``InputError`` when image and mask do not have the same (Z, Y, X)."""
    if image.shape == mask.shape:
        return
    names = [v.path.name if v.path else w for v, w in ((image, "image"), (mask, "mask"))]
    raise InputError(
        f"mask {names[1]} is {_size(mask.shape)} but image {names[0]} is {_size(image.shape)}; "
        "export the mask from the same image, or resample it first"
    )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in (shape[1:] if shape[0] == 1 else shape))


def _grey_where_grey(source: Volume) -> Volume:
    """Grey pictures are often saved as RGB; three equal channels hold one channel's numbers."""
    if not source.rgb:
        return source
    first = source.data[..., 0]
    if any((source.data[..., c] != first).any() for c in (1, 2)):
        return source
    return replace(source, data=np.ascontiguousarray(first), rgb=False)


def _read_raster(path: Path, kind: str) -> Volume:
    from napari_attnseg.io import raster

    data, rgb, notes = raster.to_image(raster.decode(path, kind))
    return Volume(data, None, rgb, path, note="; ".join(notes))


def _read_tiff(path: Path) -> Volume:
    from napari_attnseg.io import tiff

    page = tiff.decode(path)
    data, notes = page.data, []
    if page.palette is not None and data.max(initial=0) < len(page.palette):
        data = page.palette[data]
    if data.dtype == bool:
        data = data.astype(np.uint8) * np.uint8(255)
    if page.samples and data.shape[-1] in (2, 4):
        top = np.iinfo(data.dtype).max if data.dtype.kind in "iu" else 1
        if (data[..., -1] != top).any():
            notes.append("the alpha channel was left out")
        data = data[..., :3] if data.shape[-1] == 4 else data[..., 0]
    rgb = data.ndim > 2 and (page.palette is not None or page.samples) and data.shape[-1] == 3
    if rgb and page.samples and data.dtype.kind == "f":
        notes.append("three float channels are taken as red, green and blue")
    return Volume(
        np.ascontiguousarray(data),
        None,
        rgb,
        path,
        note="; ".join(notes),
        pixel_mm=page.pixel_mm,
        resolution=page.resolution,
    )


def read_mask(path: str | Path, volume: int | None = None) -> Volume:
    """Read class or object ids as uint8 or uint16, 0 = background; see `io.mask` for the rules."""
    from napari_attnseg.io import mask

    with steady(Path(path)):
        return mask.read_mask(Path(path), volume)


def mask_of(path: str | Path, image: Volume, notes: list[str] | None = None) -> np.ndarray:
    """Ids (Z, Y, X) of a mask in its image's view order, turned as the image is stored.

    Two NIfTI files of one scan may run along an axis in opposite directions; their geometries say
    so. A DICOM-SEG holds the slices that are drawn on: it is put into those of the image. Sizes are
    the caller's to compare. What reading decided is appended to ``notes``. Raises ``InputError``
    where both state their places and the mask lies elsewhere (see ``measure_files.in_place``).
    """
    mask = read_mask(path)
    if notes is not None and mask.note:
        notes.append(mask.note)
    if image.geometry is None or mask.geometry is None:
        return mask.view
    if mask.part_of_grid:
        return on_grid(mask, image).view
    if mask.shape != image.shape:
        return mask.view
    from napari_attnseg.io.measure_files import in_place

    return np.asarray(in_place(image, mask, Path(path), "its image"))
