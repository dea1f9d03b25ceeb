"""NRRD export: file order and affine of the source, segments named as 3D Slicer names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

import numpy as np

from napari_attnseg.io.export import Job
from napari_attnseg.io.export_nifti import place_words, placed
from napari_attnseg.io.nrrd_file import read_nrrd, read_nrrd_header
from napari_attnseg.io.read_back import check_volume
from napari_attnseg.io.volume import Volume

KEY = "attnseg"


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """Everything decided before a byte is written."""
    data, affine = placed(array_ZYX, source)
    if data.ndim == 2:
        data = data[..., None]
    header = {
        "space": "right-anterior-superior",
        "space directions": affine[:3, :3].T,
        "space origin": affine[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
        **_segments(json.loads(text), data.dtype.kind == "u"),
        KEY: text,
    }

    def write(path: Path) -> None:
        import nrrd

        nrrd.write(str(path), data, header, index_order="F", compression_level=6)

    def verify(path: Path) -> bool:
        check_volume(path, read_nrrd, data, affine)
        return True

    return Job(data.shape, write, verify, place_words(source, True))


def _segments(comment: dict[str, Any], ids: bool) -> dict[str, str]:
    """Names and colours under the keys that 3D Slicer reads from a .seg.nrrd."""
    found: dict[str, str] = {}
    classes = comment.get("classes", {}) if ids else {}
    for number, (value, name) in enumerate(
        (v, n) for v, n in sorted(classes.items(), key=lambda item: int(item[0])) if int(v)
    ):
        found[f"Segment{number}_ID"] = f"Segment_{value}"
        found[f"Segment{number}_Name"] = _ascii(str(name))
        found[f"Segment{number}_LabelValue"] = str(value)
        found[f"Segment{number}_Layer"] = "0"
        color = comment.get("colors", {}).get(value)
        if color:
            parts = bytes.fromhex(color.lstrip("#")[:6])
            found[f"Segment{number}_Color"] = " ".join(f"{p / 255:.6g}" for p in parts)
    return found


def _ascii(name: str) -> str:
    """A name as a header of NRRD can hold it, on one line; the comment keeps the name itself."""
    letters = (c for c in normalize("NFKD", name) if not combining(c))
    return " ".join("".join(letters).encode("ascii", "replace").decode().split())


def comment_of(path: Path) -> dict[str, Any]:
    """Classes, colours and provenance of a mask that was written here; empty otherwise."""
    return dict(json.loads(str(read_nrrd_header(path).get(KEY, "{}"))))
