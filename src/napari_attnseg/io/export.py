"""Write masks so that they lie where the scan lies, and prove it by reading them again.

A file is first written beside its place under another name, brought to the disk, read again with
a library that did not write it, compared, and only then moved to its place: a failure leaves
nothing behind and an older file untouched.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.atomic import to_disk, whole
from napari_attnseg.errors import ExportError
from napari_attnseg.io.limits import readable_bytes
from napari_attnseg.io.mask import says_ids
from napari_attnseg.io.ome_zarr_meta import ome_of
from napari_attnseg.io.provenance import complete, without_places
from napari_attnseg.io.volume import Volume
from napari_attnseg.io.zarr_labels import listed, store_of

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITERS = {
    ".nii.gz": "export_nifti",
    ".nii": "export_nifti",
    ".tif": "export_raster",
    ".tiff": "export_raster",
    ".png": "export_raster",
    ".ome.zarr": "export_ome_zarr",
    ".zarr": "export_ome_zarr",
    ".dcm": "export_dicom_seg",
    ".nrrd": "export_nrrd",
    ".mha": "export_meta",
}
"""Module that writes a format, by the ending of the name."""
SUFFIXES = tuple(WRITERS)
ZARR = (".ome.zarr", ".zarr")


@dataclass(frozen=True)
class Verified:
    """What was read back from the disk and found equal.

    ``voxel_to_world_equal``: the affine is the source's, bit for bit in float64 (True when the
    format has no affine). ``counts``: pixels per id, background included.
    """

    path: Path
    shape: tuple[int, ...]
    voxel_to_world_equal: bool
    counts: dict[int, int] = field(default_factory=dict)
    message: str = ""


def write_mask(
    path: str | Path,
    labels_ZYX: np.ndarray,
    source: Volume | None = None,
    classes: Mapping[int, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    colors: Mapping[int, str] | None = None,
) -> Verified:
    """Write ids (Z, Y, X) in the format of the name's ending (:data:`SUFFIXES`) and read them
    again: NIfTI, TIFF, PNG (one slice), OME-Zarr labels (a folder), DICOM-SEG (.dcm, of a DICOM
    series), NRRD or MetaImage. ``image.zarr/labels/NAME`` goes into the OME-Zarr of its image.

    NIfTI carries the header and the affine of ``source``; TIFF its resolution. ``classes`` (id to
    name), ``colors`` (id to ``"#rrggbb"``) and ``provenance`` travel inside. Raises
    ``ExportError`` when it cannot be written or does not read back equal.
    """
    labels, source = _as_in_file(as_ids(labels_ZYX), source)
    comment: dict[str, Any] = {"classes": {str(k): v for k, v in (classes or {}).items()}}
    if colors:
        comment["colors"] = {str(k): v for k, v in colors.items()}
    if provenance:
        comment["provenance"] = complete(provenance, source)
    return _write(Path(path), labels, source, comment)


def write_scalar(
    path: str | Path,
    values_ZYX: np.ndarray,
    source: Volume | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Verified:
    """Write a map (Z, Y, X), for example a probability, as float32 NIfTI or TIFF, verified."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        raise ExportError(f"got {path.name}; expected .tif or .nii.gz, PNG holds no float values")
    comment = {"provenance": without_places(dict(provenance))} if provenance else {}
    values, source = _as_in_file(np.asarray(values_ZYX, np.float32), source)
    return _write(path, values, source, comment)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all. Raises ``ExportError`` in one sentence."""
    path = Path(path)
    with _said(path), whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def as_ids(labels_ZYX: np.ndarray) -> np.ndarray:
    """uint8, or uint16 where ids pass 255. Raises ``ExportError`` for anything else."""
    labels = np.asarray(labels_ZYX)
    if labels.ndim != 3 or labels.size == 0 or labels.dtype.kind not in "biu":
        raise ExportError(
            f"got labels of shape {labels.shape} and type {labels.dtype}; expected whole-numbered "
            "ids with the axes (Z, Y, X)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 65535:
        raise ExportError(
            f"got ids from {low} to {high}; expected 0 to 65535, number them anew first"
        )
    small = labels.dtype in (np.dtype(bool), np.dtype(np.uint8)) or (
        labels.dtype != np.uint16 and high <= 255
    )
    return labels.astype(np.uint8 if small else np.uint16, copy=False)


def _as_in_file(array_ZYX: np.ndarray, source: Volume | None) -> tuple[np.ndarray, Volume | None]:
    """What another reader turned round is turned back: files know nothing of that."""
    if source is None or not any(source.turned) or array_ZYX.shape != source.shape:
        return array_ZYX, source
    return source.turn(array_ZYX), replace(source, turned=(False, False, False))


def _write(
    path: Path, array_ZYX: np.ndarray, source: Volume | None, comment: dict[str, Any]
) -> Verified:
    if source is not None and array_ZYX.shape != source.shape:
        raise ExportError(
            f"the mask is {array_ZYX.shape} (Z, Y, X) but the image is {source.shape}; "
            "export the mask of this image"
        )
    named = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    ids = array_ZYX.dtype.kind == "u"
    if source is not None and path.resolve() in {at[0].resolve() for at in source.slices if at}:
        raise ExportError(
            f"{path.name} is a slice of the image, which the mask would replace; choose another "
            "name"
        )
    if _is_own_image(path, source):
        raise ExportError(
            f"{path.name} is the image that the mask was made from, which it would replace; choose "
            "another name"
        )
    if named in ZARR and _is_zarr(path) and not _is_ours(path):
        raise ExportError(
            f"{path.name} is an image, which the labels would replace; choose another name"
        )
    within = ids and named in (None, *ZARR) and store_of(path) is not None
    suffix = ".zarr" if within else named
    text = json.dumps(comment, sort_keys=True, default=str)
    if suffix is None:
        raise ExportError(f"got {path.name}; expected a name ending in {', '.join(SUFFIXES)}")
    writer = importlib.import_module(f"napari_attnseg.io.{WRITERS[suffix]}")
    job = writer.prepare(suffix, array_ZYX, source, text)
    equal = False
    there = listed(path, source) if within else contextlib.nullcontext()
    with _said(path), there, whole(path, suffix=suffix) as draft:
        job.write(draft)
        to_disk(draft)  # what is verified is what the disk has
        equal = job.verify(draft)
        if draft.is_dir() and path.is_dir() and not _is_zarr(path):
            raise ExportError(f"{path} is a folder that is no zarr; choose another name")
    counts = counts_of(array_ZYX) if ids else {}
    return Verified(path, job.shape, equal, counts, _message(job, counts, comment))


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """What goes wrong with files is said in one sentence."""
    try:
        yield
    except OSError as error:
        raise ExportError(_why(path, error)) from error


def _is_own_image(path: Path, source: Volume | None) -> bool:
    """Whether ``path`` is, or leads to, the file of ``source``. One that calls its numbers ids is a
    mask that was opened, and may be written again."""
    if source is None or source.path is None or not path.is_file() or not source.path.is_file():
        return False
    return path.samefile(source.path) and not says_ids(path, source)


def _is_zarr(path: Path) -> bool:
    return any((path / mark).is_file() for mark in (".zattrs", ".zgroup", "zarr.json"))


def _is_ours(path: Path) -> bool:
    """Whether a zarr holds labels, or anything else that was written here."""
    import zarr

    from napari_attnseg.io.export_ome_zarr import KEY

    try:
        told = dict(zarr.open(str(path), mode="r").attrs)
    except Exception:
        return False  # nobody can say what it is: it stays
    return KEY in told or "image-label" in ome_of(told)


def _why(path: Path, error: OSError) -> str:
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            there = next(folder for folder in path.parents if folder.exists())
            free = readable_bytes(shutil.disk_usage(there).free)
            return (
                f"no space left for {path.name} in {path.parent} ({free} free); nothing was "
                "written, free some space or choose another folder"
            )
    return (
        f"cannot write {path}: {error.strerror or error}; nothing was changed, "
        "choose another folder"
    )


def counts_of(ids: np.ndarray) -> dict[int, int]:
    """Voxels per id that occurs; slice by slice, as counting takes eight bytes per voxel."""
    total = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for part in ids if ids.ndim == 3 else ids[None]:
        total += np.bincount(part.reshape(-1), minlength=len(total))
    return {int(i): int(total[i]) for i in np.flatnonzero(total)}


def _message(job: Any, counts: dict[int, int], comment: dict[str, Any]) -> str:
    size = " x ".join(str(n) for n in job.shape)
    parts = [f"read back and equal: {size}"]
    if job.space:
        parts.append(job.space)
    names = comment.get("classes", {})
    labelled = {i: n for i, n in counts.items() if i}
    if counts and len(labelled) <= 8:
        parts += [f"{names.get(str(i), f'id {i}')} {n}" for i, n in labelled.items()] or ["empty"]
    elif counts:
        parts.append(f"{len(labelled)} ids")
    return ", ".join(parts)


@dataclass(frozen=True)
class Job:
    """A prepared export: ``write`` fills a file, ``verify`` reads it and compares.

    ``verify`` returns whether the affine is bit-equal and raises ``ExportError`` on a mismatch.
    """

    shape: tuple[int, ...]
    write: Callable[[Path], None]
    verify: Callable[[Path], bool]
    space: str = ""
