"""Turn any stored mask into ids: uint8 or uint16, 0 = background.

The rules, in this order:

- *NIfTI and whole-numbered grey images*: the values are the ids.
- *0 and 255* (or 0 and 65535), and nothing else: one class, id 1 (noted): what ImageJ and many
  scripts call a binary mask. So is 1 bit. In a file that says of itself that its numbers are ids
  (a mask of ours, a NIfTI with the intent *label*, DICOM-SEG, OME-Zarr labels) 255 stays 255.
- *JPEG*: compression blurs ids, so grey >= 128 is id 1 (noted).
- *Palette* (PNG, GIF, TIFF): the palette index is the id; a grey palette is read as grey values.
- *Colour*: equal red, green and blue are read as grey. Otherwise black and one other colour give
  0 and 1; more colours are refused, for no file says which colour is which id.
- *Alpha*: transparent pixels (< 128) are background.
- *Float*: whole numbers are ids; values within 0..1 are cut at 0.5 (noted); others are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import check_memory, check_numbers
from napari_attnseg.io.sniff import SPACED, sniff
from napari_attnseg.io.volume import Volume

MAX_ID = 65535
BINARY = (255, MAX_ID)
"""What stands for "yes" in a binary mask."""


def read_mask(path: Path, volume: int | None = None) -> Volume:
    """Ids in file order with the geometry of the file. Raises ``InputError`` (one sentence)."""
    kind = sniff(path)
    notes: list[str] = []
    if kind == "nifti":
        from napari_attnseg.io.nifti import read_nifti

        source = read_nifti(path, volume)
        data = colours_to_ids(path, source.data) if source.rgb else source.data
    elif kind in SPACED:
        source = _from_spaced(path, volume)
        data = colours_to_ids(path, source.data) if source.rgb else source.data
    elif kind == "tiff":
        source, data = _from_tiff(path)
    else:
        source, data = _from_raster(path, kind, notes)
    check_numbers(path, data)
    ids = to_ids(path, data, notes, lambda: says_ids(path, source))
    words = "; ".join([n for n in (source.note, *notes) if n])
    return replace(source, data=np.ascontiguousarray(ids), rgb=False, note=words)


def to_ids(
    path: Path,
    data: np.ndarray,
    notes: list[str],
    stated: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Values (grey, float, bool, any integer) to ids; what was decided goes into ``notes``.
    ``stated``: whether the file calls its numbers ids; asked only where that matters."""
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype.kind == "f":
        data = _whole(path, data, notes)
    low, high = int(data.min()), int(data.max())
    if low < 0:
        raise InputError(
            f"{path.name} has negative values (down to {low}), so it is not a mask; "
            "expected ids from 0 (background) to 65535"
        )
    if high > MAX_ID:
        raise InputError(
            f"{path.name} has ids up to {high}; expected at most {MAX_ID}, number them anew first"
        )
    black_and_white = high in BINARY and ((data == 0) | (data == high)).all()
    if black_and_white and not stated():
        notes.append(f"0 and {high} read as background and class 1")
        return np.asarray(data > 0, np.uint8)
    return data.astype(np.uint8 if high <= 255 else np.uint16)


def says_ids(path: Path, source: Volume) -> bool:
    """Whether the file itself calls its numbers ids."""
    from napari_attnseg.io.comment import comment_of

    if source.labels or "classes" in comment_of(path):
        return True
    if source.header is None:
        return False
    from napari_attnseg.io.nifti import says_label

    return says_label(source.header)


def colours_to_ids(path: Path, data: np.ndarray) -> np.ndarray:
    """(..., 2 to 4) samples to one value per pixel: grey values, or 0 and 1 for two colours."""
    visible = None
    if data.shape[-1] in (2, 4):
        top = np.iinfo(data.dtype).max if data.dtype.kind in "iu" else 1
        visible = data[..., -1] > top / 2
        data = data[..., :-1]
    if (data == data[..., :1]).all():
        grey = data[..., 0]
        if visible is None or visible.all():
            return grey
        drawn = np.asarray(np.where(visible, grey, 0))
        return drawn if drawn.any() else np.asarray(visible, np.uint8)
    lit = data.any(axis=-1) if visible is None else data.any(axis=-1) & visible
    colours = np.unique(data[lit], axis=0)
    if len(colours) > 1:
        raise InputError(
            f"{path.name} is a colour mask with {len(colours)} colours besides black; expected "
            "one value per class, save it as grey or palette image with ids 0, 1, 2, ..."
        )
    return np.asarray(lit, np.uint8)


def _whole(path: Path, data: np.ndarray, notes: list[str]) -> np.ndarray:
    if (data == np.rint(data)).all():
        return data.astype(np.int64)
    if data.min() >= 0 and data.max() <= 1:
        notes.append("fractions cut at 0.5")
        return np.asarray(data >= 0.5, np.uint8)
    raise InputError(
        f"{path.name} has fractions between {data.min():g} and {data.max():g}, so it is not a "
        "mask; expected whole ids, or probabilities from 0 to 1"
    )


def _from_spaced(path: Path, volume: int | None) -> Volume:
    """DICOM, OME-Zarr, NRRD, MetaImage: the pixels as ids, read whole."""
    from napari_attnseg.io.image import read_image

    source = read_image(path, volume)
    check_memory(path, int(source.data.nbytes))  # of a zarr nothing was read so far
    return replace(source, data=np.asarray(source.data), levels=())


def _from_tiff(path: Path) -> tuple[Volume, np.ndarray]:
    from napari_attnseg.io import tiff

    page = tiff.decode(path)
    data = page.data
    if page.samples:
        check_numbers(path, data)
        data = colours_to_ids(path, data)
    elif page.palette is not None:
        data = _palette_ids(data, page.palette)
    return Volume(data, path=path, pixel_mm=page.pixel_mm, resolution=page.resolution), data


def _from_raster(path: Path, kind: str, notes: list[str]) -> tuple[Volume, np.ndarray]:
    from napari_attnseg.io import raster

    image = raster.decode(path, kind)
    if kind == "jpeg":
        grey, rgb, _ = raster.to_image(image)
        value = grey.mean(axis=-1) if rgb else grey
        notes.append("JPEG blurs ids: grey from 128 read as class 1")
        data = (value >= 128).astype(np.uint8)
    elif image.palette is not None:
        data = image.data if image.data.ndim == 2 else image.data[..., 0]
        hidden = data == image.transparent if image.transparent is not None else None
        data = _palette_ids(data, image.palette)
        data = data if hidden is None else np.where(hidden, 0, data)
    elif image.data.ndim == 3:
        data = colours_to_ids(path, image.data)
    else:
        data = image.data.astype(bool) if image.mode == "1" else image.data
    return Volume(data, path=path, note="; ".join(image.notes)), data


def _palette_ids(index: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The index is the id, unless all used colours are grey: then it is a grey image."""
    used = np.unique(index)
    if used.max(initial=0) >= len(palette):
        return index
    colours = palette[used]
    grey = (colours == colours[:, :1]).all()
    return palette[index][..., 0] if grey else index
