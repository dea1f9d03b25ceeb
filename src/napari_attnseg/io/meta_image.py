"""Read MetaImage (.mha, and .mhd with its data beside it): a text header and plain voxels.

The header is that of https://itk.org/Wiki/ITK/MetaIO/Documentation: rows of ``TransformMatrix``
are the directions of the axes in LPS, ``Offset`` the centre of the first voxel.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.directions import ras_affine
from napari_attnseg.io.limits import MAX_RATIO, check_claim, check_numbers
from napari_attnseg.io.many import chosen
from napari_attnseg.io.volume import Volume

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
LONGEST = 1 << 16
"""Bytes that a header may take."""
SCANNER = 1


def read_meta(path: str | Path, volume: int | None = None) -> Volume:
    """One volume in file order with its geometry; ``volume`` chooses from a 4D file. Raises
    ``InputError`` for damaged files and ``ManyVolumes`` where a 4D file was given none."""
    path = Path(path)
    fields, start = read_meta_header(path)
    try:
        shape, count, channels = _shape(path, fields)
        index = chosen(path, count, volume)
        data = _data(path, fields, start, (channels, *shape, count))[..., index]
        affine = _affine(fields, len(shape)) if len(shape) == 3 else None
        sizes = _numbers(fields, ("ElementSpacing", "ElementSize"), len(shape), 1.0)
    except (ValueError, KeyError, zlib.error, OSError) as error:
        raise _damaged(path, error) from error
    data = np.moveaxis(data, 0, -1) if channels == 3 else data[0]
    check_numbers(path, data)
    note = f"volume {index} of {count}" if count > 1 else ""
    common: dict[str, Any] = {"rgb": channels == 3, "path": path, "kind": "meta", "note": note}
    common["part"] = index if count > 1 else None
    if affine is None:
        order = (1, 0, *((2,) if channels == 3 else ()))
        return Volume(data.transpose(order), pixel_mm=(1.0, sizes[1], sizes[0]), **common)
    geometry = Geometry(affine, data.shape[:3], sform_code=SCANNER)
    return Volume(data, geometry, **common)


def meta_size(path: Path) -> tuple[int, int, int]:
    """(Z, Y, X) in view order from the header alone."""
    fields, _ = read_meta_header(path)
    try:
        shape, _, _ = _shape(path, fields)
        if len(shape) == 3:
            return Geometry(_affine(fields, 3), shape).view_shape  # type: ignore[arg-type]
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return 1, shape[1], shape[0]


def read_meta_header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and the byte where local voxels begin. Raises ``InputError``."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(LONGEST)
            name, found, value = line.decode("latin-1").partition("=")
            if not found or file.tell() > LONGEST:
                raise _damaged(path, ValueError("its header does not end with ElementDataFile"))
            fields[name.strip()] = value.strip()
        return fields, file.tell()


def _damaged(path: Path, error: Exception) -> InputError:
    detail = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return InputError(f"{path.name} is damaged or cut short ({detail}); copy or export it again")


def _shape(path: Path, fields: dict[str, str]) -> tuple[tuple[int, ...], int, int]:
    """(I, J[, K]), the number of volumes and of channels."""
    sizes = [int(n) for n in fields["DimSize"].split()]
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if len(sizes) != int(fields["NDims"]) or min(sizes) < 1 or channels < 1:
        raise ValueError(f"DimSize {fields['DimSize']}")
    if len(sizes) not in (2, 3, 4) or channels not in (1, 3):
        raise InputError(
            f"{path.name} has {len(sizes)} axes and {channels} channels; expected an image, a "
            "volume or several, grey or RGB"
        )
    return tuple(sizes[:3]), math.prod(sizes[3:]), channels


def _data(path: Path, fields: dict[str, str], start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels (channels, I, J[, K], volumes) in native byte order."""
    if fields.get("BinaryData", "True").lower() == "false":
        raise InputError(f"{path.name} stores its voxels as text; save it in binary form")
    name = fields["ElementDataFile"]
    if name.upper() != "LOCAL":
        if name.upper().startswith("LIST") or "%" in name:
            raise InputError(f"{path.name} spreads its voxels over many files; save it as .mha")
        path, start = path.parent / name, int(fields.get("HeaderSize", "0"))
        if not path.is_file():
            raise InputError(f"{path.name}, which holds the voxels, is missing; copy both files")
    order = fields.get("BinaryDataByteOrderMSB") or fields.get("ElementByteOrderMSB") or "False"
    kind = np.dtype((">" if order.lower() == "true" else "<") + TYPES[fields["ElementType"]])
    packed = fields.get("CompressedData", "False").lower() == "true"
    need = math.prod(shape) * kind.itemsize
    check_claim(path, need, MAX_RATIO if packed else 1.0)
    if start == -1 and not packed:  # the voxels are the end of the file, whatever stands before
        start = path.stat().st_size - need
    if start < 0:
        raise ValueError(f"HeaderSize {start}")
    with path.open("rb") as file:
        file.seek(start)
        raw = _unpacked(file.read(), need) if packed else file.read(need)
    if len(raw) < need:
        raise ValueError(f"{len(raw)} of {need} bytes of voxels are there")
    data = np.frombuffer(raw, kind, math.prod(shape)).reshape(shape, order="F")
    return data.astype(kind.newbyteorder("="), copy=False)


def _unpacked(raw: bytes, need: int) -> bytes:
    return zlib.decompressobj().decompress(raw, need)


def _affine(fields: dict[str, str], count: int) -> np.ndarray:
    sizes = _numbers(fields, ("ElementSpacing", "ElementSize"), count, 1.0)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), count, 0.0)
    names = ("TransformMatrix", "Rotation", "Orientation")
    given = next((fields[n] for n in names if n in fields), None)
    whole = int(fields["NDims"])
    turn = np.eye(whole)
    if given is not None:
        turn = np.array([float(v) for v in given.split()]).reshape(whole, whole)
    steps = turn[:count, :count].T * np.array(sizes)
    return ras_affine(steps, np.array(origin))


def _numbers(
    fields: dict[str, str], names: tuple[str, ...], count: int, default: float
) -> list[float]:
    given = next((fields[n] for n in names if n in fields), None)
    if given is None:
        return [default] * count
    values = [float(v) for v in given.split()][:count]
    if len(values) < count or not np.isfinite(values).all():
        raise ValueError(f"{names[0]} {given}")
    return values
