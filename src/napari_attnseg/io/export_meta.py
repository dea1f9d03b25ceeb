"""MetaImage export (.mha): directions and voxel sizes of the source, in one file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.io.directions import LPS, SIGNS
from napari_attnseg.io.export import Job
from napari_attnseg.io.export_nifti import place_words, placed
from napari_attnseg.io.meta_image import TYPES, read_meta, read_meta_header
from napari_attnseg.io.read_back import check_volume
from napari_attnseg.io.volume import Volume

KEY = "AttnSeg"
LONGEST = 30_000
"""Characters of a field that other readers of MetaImage take."""
ELSEWHERE = "not fit into .mha (.nii.gz and .nrrd hold them)"
CLOSE = 1e-9
"""Share of a voxel that splitting the affine into sizes and directions may cost."""


def prepare(suffix: str, array_ZYX: np.ndarray, source: Volume | None, text: str) -> Job:
    """Everything decided before a byte is written."""
    data, affine = placed(array_ZYX, source)
    if data.ndim == 2:
        data = data[..., None]
    told, left_out = _fitting(text)
    head = _header(data, affine, told)
    exact = bool(np.array_equal(_read_affine(head), affine))

    def write(path: Path) -> None:
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        packer, parts = zlib.compressobj(6), []
        for k in range(data.shape[-1]):
            parts.append(packer.compress(little[..., k].tobytes(order="F")))
        body = b"".join((*parts, packer.flush()))
        told = f"CompressedDataSize = {len(body)}\n".encode()  # ITK unpacks nothing without it
        path.write_bytes(head.replace(b"TransformMatrix", told + b"TransformMatrix", 1) + body)

    def verify(path: Path) -> bool:
        check_volume(path, read_meta, data, affine, CLOSE)
        return exact

    words = ", ".join(filter(None, [place_words(source, True), left_out]))
    return Job(data.shape, write, verify, words)


def _fitting(text: str) -> tuple[str, str]:
    """As much of the comment as one field takes, and in words what had to be left out."""
    if len(text) < LONGEST:
        return text, ""
    whole = json.loads(text)
    names = {key: whole[key] for key in ("classes", "colors") if key in whole}
    made = dict(whole.get("provenance") or {})
    if made.get("edits"):  # by far the longest: the number of pixels stays, their places go
        made["edits"] = {**made["edits"], "where": None}
    for kept, lost in (
        ({**whole, "provenance": made}, "the places of hand edits do"),
        (names, "how it was made does"),
    ):
        told = json.dumps(kept, sort_keys=True)
        if len(told) < LONGEST:
            return told, f"{lost} {ELSEWHERE}"
    return "{}", f"class names and how it was made do {ELSEWHERE}"


def _header(data: np.ndarray, affine: np.ndarray, text: str) -> bytes:
    lps = np.array(SIGNS[LPS])[:, None] * affine[:3]
    sizes = np.linalg.norm(lps[:, :3], axis=0)
    turn = (lps[:, :3] / sizes).T
    kind = next(name for name, code in TYPES.items() if np.dtype(code) == data.dtype)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "TransformMatrix": _words(turn.ravel()),
        "Offset": _words(lps[:, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _words(sizes),
        "DimSize": " ".join(str(n) for n in data.shape),
        "AnatomicalOrientation": "RAI",
        KEY: text,
        "ElementType": kind,
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in fields.items()).encode("ascii")


def _words(values: np.ndarray) -> str:
    return " ".join(f"{v + 0.0:.17g}" for v in values)


def _read_affine(head: bytes) -> np.ndarray:
    from napari_attnseg.io.meta_image import _affine

    pairs = (line.partition(" = ")[::2] for line in head.decode("ascii").splitlines())
    return _affine(dict(pairs), 3)


def comment_of(path: Path) -> dict[str, Any]:
    """Classes, colours and provenance of a mask that was written here; empty otherwise."""
    return dict(json.loads(read_meta_header(path)[0].get(KEY, "{}")))
