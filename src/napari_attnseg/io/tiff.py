"""Read TIFF with tifffile: 2D, stacks (Z, Y, X) and colour; the resolution is kept."""

from __future__ import annotations

import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_attnseg.errors import InputError
from napari_attnseg.io import raster
from napari_attnseg.io.ifd import check_chain
from napari_attnseg.io.limits import check_claim
from napari_attnseg.io.units import millimetres
from napari_attnseg.io.volume import Resolution

DAMAGE = (
    tifffile.TiffFileError,
    *raster.DAMAGE,
    zlib.error,
    struct.error,
    RuntimeError,
    AttributeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Tiff:
    """``data`` (Y, X) or (Z, Y, X), with a last axis of 2 to 4 samples if ``samples``.

    Values are as stored (no palette applied), except that "white is zero" is turned around.
    """

    data: np.ndarray
    samples: bool
    pixel_mm: tuple[float, float, float] | None = None
    resolution: Resolution | None = None
    palette: np.ndarray | None = None


def size_of(path: Path) -> tuple[int, int, int]:
    """(Z, Y, X) from the header alone."""
    with _opened(path) as file:
        series = _first(path, file)
        _, target = _layout(path, series)
        sizes = dict(zip(series.axes, series.shape, strict=True))
    z, y, x = (1, *(sizes[a] for a in target if a not in "SC"))[-3:]
    return z, y, x


def decode(path: Path) -> Tiff:
    """Pixels of the first series. Raises ``InputError`` for damaged, truncated or odd files."""
    with _opened(path) as file:
        series = _first(path, file)
        _check_bytes(path, series)
        stored, target = _layout(path, series)
        data = _pixels(path, series).reshape([n for _, n in stored])
        source = [a for a, _ in stored]
        data = np.transpose(data, [source.index(a) for a in target])
        page: Any = series.keyframe
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and data.dtype.kind in "bu":
            data = _turned(data)
        resolution = _resolution(page)
        return Tiff(
            data, target[-1] in "SC", _pixel_mm(file, resolution), resolution, _palette(page)
        )


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """The open file; every failure inside becomes one sentence, and nothing is printed."""
    me = threading.get_ident()
    log = logging.getLogger("tifffile")

    def others(record: logging.LogRecord) -> bool:
        return record.thread != me

    log.addFilter(others)
    try:
        check_chain(path)
        with tifffile.TiffFile(path) as file:
            yield file
    except InputError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from error
    finally:
        log.removeFilter(others)


def _turned(data: np.ndarray) -> np.ndarray:
    return ~data if data.dtype == bool else np.iinfo(data.dtype).max - data


def _first(path: Path, file: tifffile.TiffFile) -> Any:
    if not file.series or not all(file.series[0].shape):
        raise InputError(f"{path.name} holds no pixels; export the image again")
    return file.series[0]


def _layout(path: Path, series: Any) -> tuple[list[tuple[str, int]], list[str]]:
    """The axes as stored without those of length 1, and the same in the order [Z] Y X [S]."""
    stored = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
    names = [a for a, _ in stored]
    stack = [a for a in names if a not in "YXSC"]
    colour = [a for a in names if a in "SC"]
    sizes = dict(stored)
    if len(stack) > 1 or len(colour) > 1 or "Y" not in names or "X" not in names:
        raise InputError(
            f"{path.name} has axes {'x'.join(map(str, series.shape))} ({series.axes}); expected a "
            "2D image or one stack of slices, save one time point or channel of it"
        )
    count, separate = sizes[colour[0]] if colour else 1, colour == ["C"]
    if colour and (count != 3 if separate else not 2 <= count <= 4):
        slices = ", or if they are slices say so in ImageJ (Image > Properties)"
        raise InputError(
            f"{path.name} has {count} {'separate ' * separate}channels; expected grey or RGB, save "
            f"the channel to be segmented on its own{slices * (separate and not stack)}"
        )
    return stored, [*stack, "Y", "X", *colour]


def _check_bytes(path: Path, series: Any) -> None:
    """Every strip must lie inside the file: tifffile would fill the rest with zeros."""
    check_claim(path, int(np.prod(series.shape, dtype=object)) * series.dtype.itemsize)
    size = path.stat().st_size
    ends = [series.dataoffset + series.nbytes] if series.dataoffset is not None else []
    for page in series.pages:
        if page is not None:
            pairs = zip(page.dataoffsets, page.databytecounts, strict=False)
            ends += [offset + count for offset, count in pairs]
    if not ends or max(ends) > size:
        raise InputError(
            f"{path.name} is truncated: its pixels end at byte {max(ends, default=0)} of {size}; "
            "copy or download it again"
        )


def _pixels(path: Path, series: Any) -> np.ndarray:
    try:
        return np.asarray(series.asarray())
    except (ValueError, ImportError) as error:
        if "imagecodecs" not in str(error):
            raise
        return _with_pillow(path, series)


def _with_pillow(path: Path, series: Any) -> np.ndarray:
    """Compressions that tifffile alone cannot undo (LZW, JPEG, CCITT) are read with libtiff."""
    name = getattr(series.keyframe.compression, "name", "unknown")
    if series.dtype.itemsize > 1 and series.keyframe.samplesperpixel > 1:
        raise InputError(
            f"{path.name} is compressed with {name}, which needs: pip install imagecodecs"
        )
    with raster.opened(path) as image:
        frames = []
        for index in range(len(series.pages)):
            image.seek(index)
            frames.append(np.array(image))
    data = np.stack(frames)
    white_is_zero = series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    return _turned(data) if white_is_zero else data  # Pillow has turned it around already


def _resolution(page: Any) -> Resolution | None:
    x, y = page.tags.get("XResolution"), page.tags.get("YResolution")
    if x is None or y is None or not all((*x.value, *y.value)):
        return None
    unit = page.tags.get("ResolutionUnit")
    name = getattr(unit.value, "name", "INCH") if unit is not None else "INCH"
    return Resolution(x.value[0] / x.value[1], y.value[0] / y.value[1], name)


def _pixel_mm(
    file: tifffile.TiffFile, resolution: Resolution | None
) -> tuple[float, float, float] | None:
    """Pixel size in mm (Z, Y, X). Inches are a print size of scanners and cameras: not used."""
    if file.ome_metadata:
        return _ome_mm(file.ome_metadata)
    own = _own_mm(file)
    if own is not None:
        return own
    imagej: dict[str, Any] = file.imagej_metadata or {}
    if resolution is None:
        return None
    unit, depth_unit = (_imagej_mm(imagej, name) for name in ("unit", "zunit"))
    if unit is None and resolution.unit in ("CENTIMETER", "MILLIMETER", "MICROMETER"):
        unit = millimetres(resolution.unit)
    if unit is None:
        return None
    rows_unit = _imagej_mm(imagej, "yunit") or unit
    depth = abs(_float(imagej.get("spacing"))) * (depth_unit or unit)
    return depth or 1.0, rows_unit / resolution.y, unit / resolution.x


def _own_mm(file: tifffile.TiffFile) -> tuple[float, float, float] | None:
    """The sizes that a mask written here carries (``io.export_raster``)."""
    shaped: tuple[dict[str, Any], ...] = file.shaped_metadata or ({},)
    told = shaped[0].get("spacing_mm")
    if not isinstance(told, list) or len(told) != 3:
        return None
    z, y, x = (_float(v) for v in told)
    return (z, y, x) if min(z, y, x) > 0 else None


def _imagej_mm(imagej: dict[str, Any], name: str) -> float | None:
    return millimetres(str(imagej.get(name, "")))


def _float(value: Any) -> float:
    """A finite number, or 0 for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if np.isfinite(number) else 0.0


def _ome_mm(text: str) -> tuple[float, float, float] | None:
    """Of the first image; without a unit it is micrometres (the schema's default). A unit that is
    no length, pixels or a frame of reference, tells no size."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    head = pixels.group(0) if pixels else ""
    sizes: list[float] = []
    for axis in "ZYX":
        value = re.search(rf"\bPhysicalSize{axis}\s*=\s*[\"']([^\"']+)[\"']", head)
        unit = re.search(rf"\bPhysicalSize{axis}Unit\s*=\s*[\"']([^\"']+)[\"']", head)
        scale = millimetres(unescape(unit.group(1)) if unit else "um")
        size = 0.0 if value is None or scale is None else _float(value.group(1)) * scale
        if size <= 0 and axis != "Z":
            return None
        sizes.append(size if size > 0 else 1.0)
    return sizes[0], sizes[1], sizes[2]


def _palette(page: Any) -> np.ndarray | None:
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    return (np.asarray(page.colormap).T >> 8).astype(np.uint8)


def _damaged(path: Path, error: Exception) -> InputError:
    detail = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return InputError(
        f"{path.name} is damaged or cut short ({detail[:80]}); copy or download it again"
    )
