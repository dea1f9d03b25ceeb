"""OME-Zarr images written with zarr alone, in both versions of the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

SHAPE = (7, 11, 13)


def ranks(shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint16) -> np.ndarray:
    count = int(np.prod(shape))
    return np.random.default_rng(1).permutation(count).reshape(shape).astype(dtype)


def axes_of(names: str, unit: str | None = "millimeter") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": n, "type": kinds.get(n, "space")} for n in names]
    for axis in axes:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
    return axes


def write(
    path: Path,
    data: np.ndarray,
    names: str = "zyx",
    scale: Any = (3.0, 0.5, 0.25),
    shift: Any = None,
    version: str = "0.5",
    unit: str | None = "millimeter",
    levels: int = 2,
    outer: Any = None,
    chunks: Any = None,
    **more: Any,
) -> Path:
    """An image written with zarr alone; every level halves Y and X by taking each second pixel."""
    fmt = 3 if version == "0.5" else 2
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt)
    datasets = []
    for k in range(levels):
        step = tuple(slice(None, None, 2**k if n in "yx" else 1) for n in names)
        small = data[step]
        size = chunks or tuple(min(4, n) for n in small.shape)
        array = group.create_array(str(k), shape=small.shape, dtype=small.dtype, chunks=size)
        array[:] = small
        factor = [2.0**k if n in "yx" else 1.0 for n in names]
        entry: dict[str, Any] = {"path": str(k)}
        if scale is not None:
            steps = [
                {"type": "scale", "scale": [s * f for s, f in zip(scale, factor, strict=True)]}
            ]
            if shift is not None:
                steps.append({"type": "translation", "translation": list(shift)})
            entry["coordinateTransformations"] = steps
        datasets.append(entry)
    image: dict[str, Any] = {"datasets": datasets, "axes": axes_of(names, unit)}
    if outer is not None:
        image["coordinateTransformations"] = [{"type": "scale", "scale": list(outer)}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [image], **more}
    else:
        image["version"] = version
        group.attrs.update({"multiscales": [image], **more})
    return path
