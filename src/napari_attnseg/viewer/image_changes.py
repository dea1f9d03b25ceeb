"""Whether the file behind an image is still what it was, and in words what is not."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.io.limits import readable_bytes
from napari_attnseg.io.mapped import FileMap
from napari_attnseg.viewer.layers import METADATA, layer_source

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.control.messages import ImageRef

FILES_LOOKED_AT = 5000
"""Of a folder no more are looked at, so that a window does not wait for a slow disk."""


def stamp_of(path: Path | None) -> dict[str, int]:
    """Bytes, time of the last change (ns) and, of a folder, number of its files; else nothing."""
    if path is None:
        return {}
    try:
        if not path.is_dir():
            state = path.stat()
            return {"bytes": state.st_size, "time_ns": state.st_mtime_ns}
        states = []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_file():
                    states.append(entry.stat())
                if len(states) >= FILES_LOOKED_AT:
                    break
        times = [path.stat().st_mtime_ns, *(s.st_mtime_ns for s in states)]
        total = sum(s.st_size for s in states)
        return {"bytes": total, "time_ns": max(times), "files": len(states)}
    except OSError:
        return {}


def known_of(layer: Layer, path: Path | None) -> dict[str, Any]:
    """What tells the image of ``layer`` from another one in the same file: ``stamp`` of the file,
    as it was when it was mapped, and ``affine`` of its voxels."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    stamp = stamp_of(path)
    mapped = isinstance(data, FileMap) and data.filename and Path(str(data.filename)) == path
    if mapped and data.identity is not None:
        stamp = {"bytes": data.identity[2], "time_ns": data.identity[3]}
    return {"stamp": stamp, "affine": _affine(layer)}


def digest_in(ref: ImageRef | None) -> str:
    """The digest of the pixels that the engine was handed, empty when it reads them from their
    own file (then nobody has counted them)."""
    return ref.key if ref is not None and Path(ref.path).stem == f"image-{ref.key}" else ""


def digest_of(layer: Layer) -> str:
    """A digest of the pixels, as the engine knows them; takes a second for 1 GB."""
    from napari_attnseg.control.scratch import pixel_key

    return pixel_key(layer_source(layer).array)


def moved(facts: Mapping[str, Any], layer: Layer) -> bool:
    """Whether the voxels of the file lie elsewhere in the world than those of ``facts`` did."""
    then, now = facts.get("affine"), _affine(layer)
    if (then is None and now is None) or "affine" not in facts:
        return False
    return then is None or now is None or not np.allclose(then, now, rtol=1e-6, atol=1e-6)


def changes(facts: Mapping[str, Any], layer: Layer, where: Path | None) -> str:
    """A sentence or two when the image of ``layer``, read from ``where``, is not that of ``facts``.

    Where the digest of the pixels is known they are counted, which takes time for large images;
    else the file's size and time must do.
    """
    said, name = [], facts["name"]
    if moved(facts, layer):
        said.append(
            f"The voxels of {name} lie elsewhere now ({_spacing(facts['affine'])}, now "
            f"{_spacing(_affine(layer))}): its labels follow the file."
        )
    if where is not None:  # kept pixels are what they were
        then, now = facts.get("stamp") or {}, stamp_of(where)
        if facts.get("digest"):
            if digest_of(layer) != facts["digest"]:
                said.append(
                    f"The pixels of {name} have changed since{_aside(then, now)}: look whether "
                    "its labels still fit."
                )
        elif then and now and then != now:
            said.append(
                f"{where.name} was written again since{_aside(then, now)}: look whether the labels "
                "still lie on it."
            )
    return " ".join(said)


def _aside(then: Mapping[str, int], now: Mapping[str, int]) -> str:
    """``" (1.2 MB of 21 Nov 10:30, now 1.3 MB of 21 Nov 12:00)"``."""
    return f" ({_words(then)}, now {_words(now)})" if then and now and then != now else ""


def _words(stamp: Mapping[str, int]) -> str:
    when = time.strftime("%d %b %H:%M:%S", time.localtime(stamp["time_ns"] / 1e9))
    files = f" in {stamp['files']} files" if "files" in stamp else ""
    return f"{readable_bytes(stamp['bytes'])}{files} of {when}"


def _affine(layer: Layer) -> list[list[float]] | None:
    entry = layer.metadata.get(METADATA)
    volume = entry.get("volume") if isinstance(entry, dict) else None
    geometry = getattr(volume, "geometry", None)
    return None if geometry is None else np.asarray(geometry.affine).tolist()


def _spacing(affine: Any) -> str:
    if affine is None:
        return "without a space"
    matrix = np.asarray(affine, float)
    sizes = " x ".join(f"{n:.3g}" for n in np.linalg.norm(matrix[:3, :3], axis=0))
    return f"{sizes} mm from ({', '.join(f'{v:.4g}' for v in matrix[:3, 3])})"
