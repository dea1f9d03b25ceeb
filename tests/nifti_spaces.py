"""NIfTI files of every space a scanner or a program leaves behind, drawn by hypothesis."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

SHAPE = (5, 7, 9)
ALL_48 = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
TYPES = (
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float32", "float64"),
)
RGB = "rgb"
CODES = (0, 1, 2, 3, 4, 5)
UNITS = ("mm", "unknown", "micron", "meter", "mm", "mm")
"""Units of length of a header, the usual one more often."""


def examples(few: int) -> int:
    """How many are drawn: ``few``, or at least 300 where ATTNSEG_LONG (a number) asks for more."""
    return max(300, int(os.environ["ATTNSEG_LONG"])) if os.environ.get("ATTNSEG_LONG") else few


@dataclass(frozen=True)
class Space:
    """What is written into a header, and how the voxels are stored."""

    affine: np.ndarray
    sform: int
    qform: int
    second: np.ndarray
    shape: tuple[int, ...] = SHAPE
    dtype: str = "int16"
    slope: float = 1.0
    inter: float = 0.0
    pixdim: tuple[float, float, float] | None = None
    order: str = "<"
    two: bool = False
    seed: int = 0
    unit: str = "mm"


def affine_of(
    order: tuple[int, ...],
    signs: tuple[int, ...],
    size: tuple[float, ...] = (0.7, 1.9, 3.1),
    degrees: tuple[float, float, float] = (0, 0, 0),
    shear: tuple[float, float, float] = (0, 0, 0),
    origin: tuple[float, ...] = (-31.25, 17.5, 402.0),
) -> np.ndarray:
    """File axis a runs along world axis order[a] with the given sign, then sheared, then turned."""
    matrix = np.zeros((3, 3))
    for a in range(3):
        matrix[order[a], a] = signs[a] * size[a]
    skew = np.eye(3)
    skew[0, 1], skew[0, 2], skew[1, 2] = shear
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) @ skew @ matrix
    affine[:3, 3] = origin
    return affine


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    """Rotation about x, then y, then z."""
    whole = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        whole = one @ whole
    return whole


def _angle(limit: float) -> st.SearchStrategy[float]:
    return st.just(0.0) | st.floats(-limit, limit)


@st.composite
def affines(draw: st.DrawFn, shear: bool = True, oblique: bool = True) -> np.ndarray:
    """Any of the 48 orientations, straight, oblique or sheared, 0.2 to 8 mm."""
    order, signs = draw(st.sampled_from(ALL_48))
    size = draw(st.tuples(*[st.floats(0.2, 8)] * 3))
    degrees = draw(st.tuples(*[_angle(40)] * 3)) if oblique else (0.0, 0.0, 0.0)
    skew = draw(st.tuples(*[_angle(0.3)] * 3)) if shear else (0.0, 0.0, 0.0)
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine_of(order, signs, size, degrees, skew, origin)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Any space in any kind of file. A 2D or 4D shape, broken voxel sizes and colour included."""
    dtype = draw(st.sampled_from((*TYPES, RGB)))
    scaled = dtype != RGB and draw(st.booleans())
    sizes = st.tuples(*[st.sampled_from((-2.5, 0.0, 1.0, 3.5))] * 3)
    return Space(
        affine=draw(affines()),
        second=draw(affines(shear=False)),
        sform=draw(st.sampled_from(CODES)),
        qform=draw(st.sampled_from(CODES)),
        shape=draw(st.sampled_from((SHAPE, SHAPE, (5, 7), (*SHAPE, 3), (5, 7, 1, 2), (5, 1, 9)))),
        dtype=dtype,
        slope=draw(st.sampled_from((2.0, -1.0, 0.5, 0.37, 0.0, np.nan))) if scaled else 1.0,
        inter=draw(st.sampled_from((0.0, -1024.0, 0.25))) if scaled else 0.0,
        pixdim=draw(st.none() | sizes),
        order=draw(st.sampled_from("<>")),
        two=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
        unit=draw(st.sampled_from(UNITS)),
    )


def values_of(space: Space) -> np.ndarray:
    """Voxels that tell every place from its neighbours, as stored."""
    shape = (*space.shape, 3) if space.dtype == RGB else space.shape
    kind = np.dtype("uint8" if space.dtype == RGB else space.dtype)
    ranks = np.random.default_rng(space.seed).permutation(int(np.prod(shape))).reshape(shape)
    return (ranks % 127 if kind.itemsize == 1 else ranks).astype(kind)


def write(path: Path, space: Space) -> np.ndarray:
    """The file of a space, header fields set byte by byte; returns the voxels as stored."""
    values = values_of(space)
    stored = values.astype(values.dtype.newbyteorder(space.order))
    if space.dtype == RGB:
        stored = np.ascontiguousarray(stored).view([(c, "u1") for c in "RGB"])[..., 0]
    kind = nib.Nifti2Header if space.two else nib.Nifti1Header
    header = kind(endianness=space.order)
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(space.shape)
    header.set_qform(space.second, space.qform)
    header.set_sform(space.affine, space.sform)
    header["magic"] = b"n+2" if space.two else b"n+1"
    header["vox_offset"] = 544 if space.two else 352
    header.set_xyzt_units(space.unit, "sec")
    header["scl_slope"], header["scl_inter"] = space.slope, space.inter
    header["descrip"], header["aux_file"] = b"scanner 7", b"session 3"
    if space.pixdim is not None:
        header["pixdim"][1:4] = space.pixdim
    body = stored.tobytes(order="F")
    path.write_bytes(header.binaryblock + bytes(4) + body)
    return values


def mm_affine(image: nib.Nifti1Image) -> np.ndarray:
    """nibabel's affine, which is in the unit of the header, in millimetres."""
    factor = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)  # m, µm; else mm
    return np.diag([factor, factor, factor, 1.0]) @ image.affine


def sform_of(raw: bytes) -> np.ndarray:
    """The three rows at byte 280 of a little-endian NIfTI-1 file, by the standard's own table."""
    rows = struct.unpack("<12f", raw[280:328])
    return np.vstack([np.reshape(rows, (3, 4)), (0, 0, 0, 1)])
