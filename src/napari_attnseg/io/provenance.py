"""How a mask came about, as plain data that travels inside the file (see docs/provenance.md).

The model and the values come from ``Session.provenance``; here is what is added when a mask is
written: the source (its name and a digest of pixels and affine, never its path), the versions, the
date, and where a person changed what the model said.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.io.measure_space import space_of
from napari_attnseg.io.volume import Volume

LIBRARIES = ("napari-attnseg", "numpy", "torch", "nibabel", "monai", "scikit-image", "scipy")
MOST_TEXT = 1 << 20
"""Characters that the places of hand edits may take; beyond, only their number is kept."""
EPOCH = "SOURCE_DATE_EPOCH"
"""Environment variable of reproducible builds: the date to be written instead of the present."""
PLACE = re.compile(r"(?:/|[A-Za-z]:[\\/]|\\\\)[^\n]*")
"""A text that is a path from the root on, here or on Windows."""
_RUN = np.dtype("<u4")


def versions() -> dict[str, str]:
    """Python and the libraries that a result may depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def complete(provenance: Mapping[str, Any], source: Volume | None) -> dict[str, Any]:
    """``provenance`` with source, versions and date (UTC, ISO 8601); what is told already stays."""
    added: dict[str, Any] = {
        "versions": versions(),
        "date": _now().isoformat(timespec="seconds"),
    }
    if source is not None:
        added["source"] = about(source)
    return {**added, **without_places(dict(provenance))}


def without_places(told: Any) -> Any:
    """Plain data in which paths are file names: folders bear names of people and of projects."""
    if isinstance(told, Mapping):
        return {key: without_places(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [without_places(value) for value in told]
    if not isinstance(told, str):
        return told
    if PLACE.fullmatch(told):
        return re.split(r"[\\/]", told.rstrip("\\/"))[-1]
    return told.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def _now() -> datetime:
    """The time, or that of SOURCE_DATE_EPOCH (seconds), with which equal masks are equal files."""
    fixed = os.environ.get(EPOCH, "")
    return datetime.fromtimestamp(int(fixed), UTC) if fixed.isdigit() else datetime.now(UTC)


def about(source: Volume) -> dict[str, Any]:
    """File name, size, type, digest and, of a file of several volumes, which one it was (of a
    DICOM series the UID)."""
    return {
        "file": source.path.name if source.path else None,
        "shape": list(source.shape),
        "type": str(source.data.dtype),
        "volume": source.part if isinstance(source.part, int) else None,
        **({"series": source.part} if isinstance(source.part, str) else {}),
        "digest": digest_of(source),
    }


def digest_of(source: Volume) -> str:
    """SHA-256 (hex) of size, type, affine and pixels in view order (Z, Y, X[, C]).

    Little-endian numbers, slice by slice; colour with three equal channels counts as grey. Where
    no space is known the affine is left out. The name and place of the file do not matter.
    """
    view: Any = source.view
    grey = source.rgb and all(_is_grey(np.asarray(slice_)) for slice_ in view)
    kind = np.dtype(view.dtype)
    whole = hashlib.sha256(f"{source.shape} {kind.name} {source.rgb and not grey}\n".encode())
    if source.spacing_mm:
        whole.update(space_of(source).affine.astype("<f8").tobytes())
    for slice_ in view:
        pixels = np.asarray(slice_)
        pixels = pixels[..., 0] if grey else pixels
        whole.update(np.ascontiguousarray(pixels, kind.newbyteorder("<")).data)
    return whole.hexdigest()


def _is_grey(pixels_YXC: np.ndarray) -> bool:
    return bool((pixels_YXC == pixels_YXC[..., :1]).all())


def edits(
    masks: Iterable[tuple[int, np.ndarray]],
    area: int,
    steps: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any] | None:
    """What a person changed: number of voxels and, as packed runs, which; ``None``: nothing.

    ``masks``: (slice, bool (Y, X)) in rising order, ``area``: pixels per slice. ``steps``: tidying
    steps that were applied, the voxels of which are among these.
    """
    parts = [np.flatnonzero(mask) + z * area for z, mask in masks]
    flat = np.concatenate([np.zeros(0, np.int64), *parts])
    if not len(flat):
        return None
    told: dict[str, Any] = {"voxels": len(flat), "where": packed(flat)}
    listed = [dict(step) for step in steps]
    return told | ({"steps": listed} if listed else {})


def packed(flat: np.ndarray) -> str | None:
    """Sorted flat indices as text: gap and length of every run (uint32), deflated, base64."""
    edge = np.flatnonzero(np.diff(flat) != 1) + 1
    first = flat[np.concatenate([[0], edge]).astype(np.int64)]
    last = flat[np.concatenate([edge - 1, [len(flat) - 1]]).astype(np.int64)]
    gap = np.diff(first, prepend=0)
    runs = np.stack([gap, last - first + 1], 1)
    if runs.max() >= 1 << 32:
        return None
    text = base64.b64encode(zlib.compress(runs.astype(_RUN).tobytes(), 9)).decode()
    return text if len(text) <= MOST_TEXT else None


def unpacked(text: str, count: int) -> np.ndarray:
    """The flat indices, all below ``count``. Raises ``ValueError`` for text that is none."""
    engine = zlib.decompressobj()
    data = engine.decompress(base64.b64decode(text, validate=True), 16 * count + 8)
    if len(data) % 8 or not engine.eof:
        raise ValueError("the runs are cut short")
    gap, length = np.frombuffer(data, _RUN).reshape(-1, 2).astype(np.int64).T
    first = np.cumsum(gap)
    if len(first) and (length.min() < 1 or int((first + length).max()) > count):
        raise ValueError("the runs lie outside of the mask")
    if length.sum() > count:
        raise ValueError("the runs overlap")
    return (
        np.repeat(first, length)
        + np.arange(length.sum())
        - np.repeat(np.cumsum(length) - length, length)
    )
