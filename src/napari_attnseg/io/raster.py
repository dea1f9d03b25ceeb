"""Read PNG, JPEG, GIF and BMP with Pillow: the stored pixels, never rotated or rescaled."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import check_claim

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Raster:
    """Decoded pixels: ``data`` (Y, X) or (Y, X, C); ``mode`` is Pillow's; ``palette`` (n, 3)."""

    data: np.ndarray
    mode: str
    kind: str
    palette: np.ndarray | None = None
    transparent: int | None = None
    notes: tuple[str, ...] = ()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image with only its header read; every failure inside becomes an ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path.name} claims more pixels than a 2D image may have here (179 million); "
            "its header is damaged, or cut the image into parts first"
        ) from error
    except (*DAMAGE, UnidentifiedImageError, zlib.error, struct.error) as error:
        detail = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(
            f"{path.name} is damaged or cut short ({detail[:80]}); copy or download it again"
        ) from error


def size_of(path: Path) -> tuple[int, int]:
    """(Y, X) from the header alone."""
    with opened(path) as image:
        return image.height, image.width


def decode(path: Path, kind: str) -> Raster:
    """All pixels of the first frame. Raises ``InputError`` for damaged or truncated files."""
    if kind == "png":
        with opened(path) as image:
            image.verify()  # walks the checksums, which decoding alone does not
    with opened(path) as image:
        bands = len(image.getbands()) * (4 if image.mode in ("I", "F") else 1)
        check_claim(path, image.width * image.height * bands)
        notes = _notes(image, path, kind)
        image.load()
        palette, transparent = _palette(image)
        data = np.array(image)
        if image.mode == "1":
            data = data.astype(np.uint8)
        if image.mode == "I" and data.min() >= 0 and data.max() <= 65535:
            data = data.astype(np.uint16)
        return Raster(data, image.mode, kind, palette, transparent, notes)


def to_image(raster: Raster) -> tuple[np.ndarray, bool, list[str]]:
    """Intensities for a network: (Y, X) grey or (Y, X, 3) colour, whether colour, notes."""
    notes = list(raster.notes)
    data = raster.data
    if raster.palette is not None:
        data = raster.palette[data if data.ndim == 2 else data[..., 0]]
        if (data == data[..., :1]).all():
            data = data[..., 0]
    elif raster.mode == "1":
        data = data * np.uint8(255)
    elif raster.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        data = np.array(Image.fromarray(data, raster.mode).convert("RGB"))
        notes.append(f"converted from {raster.mode} to RGB")
    if data.ndim == 3 and data.shape[-1] in (2, 4):
        if (data[..., -1] != np.iinfo(data.dtype).max).any():
            notes.append("the alpha channel was left out")
        data = data[..., :-1] if data.shape[-1] == 4 else data[..., 0]
    return np.ascontiguousarray(data), data.ndim == 3, notes


def _palette(image: Image.Image) -> tuple[np.ndarray | None, int | None]:
    if image.mode not in ("P", "PA"):
        return None, None
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    full = np.zeros((256, 3), np.uint8)
    full[: len(colours)] = colours[:256]
    transparent = image.info.get("transparency")
    return full, transparent if isinstance(transparent, int) else None


def _notes(image: Image.Image, path: Path, kind: str) -> tuple[str, ...]:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} frames is used")
    named = path.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    if named and named != kind and named in ("png", "jpeg", "gif", "bmp", "tif", "tiff"):
        notes.append(f"the file is a {kind.upper()} although its name ends in {path.suffix}")
    if image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
        notes.append("the EXIF rotation is not applied, so that the mask fits the stored pixels")
    if kind == "png" and _png_depth(path) == 16 and image.mode in ("RGB", "RGBA"):
        notes.append("16-bit colour is read with 8 bits")
    return tuple(notes)


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if len(head) == 25 else 8
