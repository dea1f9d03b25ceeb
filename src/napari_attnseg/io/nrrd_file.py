"""Read NRRD (.nrrd, and .nhdr with its data beside it): values and space as stored.

pynrrd reads the header; the voxels come from `io.nrrd_data`, which unpacks within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.directions import LPS, SHORT, SIGNS, ras_affine
from napari_attnseg.io.limits import check_numbers
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.io.nrrd_data import read_data
from napari_attnseg.io.units import millimetres
from napari_attnseg.io.volume import Volume

SCANNER = 1
COLOUR = ("rgb-color", "3-color")


def read_nrrd(path: str | Path, volume: int | None = None) -> Volume:
    """One volume in file order with its geometry; ``volume`` chooses along an axis that is not
    space. Raises ``InputError`` for damaged files and ``ManyVolumes`` where none was chosen."""
    path = Path(path)
    header = read_nrrd_header(path)
    at, space = _axes(path, header)
    data, more = _data(path, header)
    rgb = at is not None and _is_colour(header, at)
    data, part, notes = _pick(path, data, at, rgb, volume)
    check_numbers(path, data)
    common: dict[str, Any] = {
        "rgb": rgb,
        "path": path,
        "note": "; ".join([*notes, *more]),
        "kind": "nrrd",
        "part": part,
    }
    affine, assumed = _affine(path, header, space)
    if affine is None:
        order = (*reversed(range(len(space))), *((len(space),) if rgb else ()))
        return Volume(data.transpose(order), pixel_mm=_sizes(header, space), **common)
    i, j, k = (*data.shape, 1)[:3]
    geometry = Geometry(affine, (i, j, k), sform_code=SCANNER)
    return Volume(data, geometry, assumed=assumed, **common)


def nrrd_size(path: Path) -> tuple[int, int, int]:
    """(Z, Y, X) in view order from the header alone."""
    header = read_nrrd_header(path)
    _, space = _axes(path, header)
    shape = tuple(int(header["sizes"][a]) for a in space)
    affine, _ = _affine(path, header, space)
    if affine is not None:
        i, j, k = (*shape, 1)[:3]
        return Geometry(affine, (i, j, k)).view_shape
    z, y, x = (1, *reversed(shape))[-3:]
    return z, y, x


def read_nrrd_header(path: Path) -> dict[str, Any]:
    """The fields of the header. Raises ``InputError`` for a damaged one."""
    import nrrd

    try:
        header = dict(nrrd.read_header(str(path)))
        sizes = [int(n) for n in header["sizes"]]
        if len(sizes) != int(header["dimension"]) or not sizes or min(sizes) < 1:
            raise ValueError(f"sizes {sizes}")
        return header
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    words = str(error).strip().splitlines()
    detail = words[0].rstrip(".")[:80] if words else type(error).__name__
    return InputError(f"{path.name} is damaged or cut short ({detail}); copy or export it again")


def _axes(path: Path, header: dict[str, Any]) -> tuple[int | None, list[int]]:
    """The axis that is not space, if there is one, and those of space."""
    count = int(header["dimension"])
    directions = header.get("space directions")
    kinds = [str(k).lower() for k in header.get("kinds", ["domain"] * count)]
    other = [a for a, k in enumerate(kinds) if k not in ("domain", "space", "???", "none")]
    if directions is not None:
        rows = np.asarray(directions, float)
        other = [a for a in range(count) if not np.isfinite(rows[a]).all()]
    if not other and count == 4:
        other = [3]
    space = [a for a in range(count) if a not in other]
    if len(other) > 1 or len(space) not in (2, 3):
        sizes = " x ".join(str(n) for n in header["sizes"])
        raise InputError(
            f"{path.name} has axes of {sizes} with {len(other)} besides space; expected an image "
            "or a volume and at most one axis of volumes or colours, save a part of it"
        )
    return (other[0] if other else None), space


def _is_colour(header: dict[str, Any], at: int) -> bool:
    kinds = [str(k).lower() for k in header.get("kinds", [])]
    kind = kinds[at] if at < len(kinds) else ""
    return int(header["sizes"][at]) == 3 and (kind in COLOUR or kind == "vector")


def _data(path: Path, header: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    import nrrd

    try:
        return read_data(path, header, np.dtype(nrrd.reader._determine_datatype(header)))
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _pick(
    path: Path, data: np.ndarray, at: int | None, rgb: bool, volume: int | None
) -> tuple[np.ndarray, int | None, list[str]]:
    if at is None or rgb:
        if volume:
            raise InputError(f"got volume {volume}, but {path.name} holds one; leave it out")
        return (data if at is None else np.moveaxis(data, at, -1)), None, []
    count = data.shape[at]
    if volume is None and count > 1:
        raise ManyVolumes(
            f"{path.name} holds {count} volumes; choose one with --volume K (0 to {count - 1})",
            count,
        )
    if volume is not None and not 0 <= volume < count:
        raise InputError(f"got volume {volume}, but {path.name} has {count}; from 0")
    chosen = volume or 0
    words = [f"volume {chosen} of {count}"] if count > 1 else []
    return np.take(data, chosen, at), chosen if count > 1 else None, words


def _affine(path: Path, header: dict[str, Any], space: list[int]) -> tuple[np.ndarray | None, str]:
    """RAS+ mm, or ``None`` where no directions are stated; what was assumed, in words."""
    directions = header.get("space directions")
    if directions is None:
        return None, ""
    steps = np.asarray(directions, float)[space].T
    origin = np.asarray(header.get("space origin", np.zeros(len(steps))), float)
    if steps.shape not in ((3, 3), (3, 2)) or origin.shape != (3,):
        return None, ""
    factor = _factor(header)
    if steps.shape[1] == 2:
        normal = np.cross(steps[:, 0], steps[:, 1])
        steps = np.column_stack([steps, normal / (np.linalg.norm(normal) * factor)])
    told = str(header.get("space", "")).lower().removesuffix("-time")
    world = SHORT.get(told, told)
    known = world in SIGNS or world == "lps"
    assumed = (
        "" if known else f"its space is {told or 'not named'}: read as left-posterior-superior"
    )
    world = world if world in SIGNS else LPS
    if "space origin" not in header:
        assumed = "; ".join(filter(None, [assumed, "no origin is stated: 0"]))
    return ras_affine(steps * factor, origin * factor, world), assumed


def _factor(header: dict[str, Any]) -> float:
    units = header.get("space units") or ["mm"]
    return millimetres(str(units[0])) or 1.0


def _sizes(header: dict[str, Any], space: list[int]) -> tuple[float, float, float] | None:
    given = header.get("spacings")
    if given is None:
        directions = header.get("space directions")
        if directions is None:
            return None
        sizes = np.linalg.norm(np.asarray(directions, float)[space], axis=1)
    else:
        sizes = np.asarray(given, float)[space]
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        return None
    units = header.get("units")
    name = str(units[space[0]]) if units else "mm"
    factor = millimetres(name) or 1.0
    z, y, x = (1.0, *(float(s) * factor for s in reversed(sizes)))[-3:]
    return z, y, x
