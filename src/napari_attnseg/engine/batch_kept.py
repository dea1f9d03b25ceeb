"""Whether a mask that stands at its place already is the finished answer to what is asked now.

A mask gets its name only after it was written whole and read back equal, and it says inside what
it was made of. So a mask counts as finished when it reads whole, says the same model, values and
image as are asked for, and still has the pixels per class that it was written with. One that
does not say so, or has other pixels by now, may hold work by hand: it is never replaced unasked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_attnseg.engine.batch_extras import place_of
from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.dicom_scan import is_dicom
from napari_attnseg.io.export import counts_of
from napari_attnseg.io.ome_zarr import is_zarr

ASKED, VOXELS, SOURCE = "asked", "voxels", "file_digest"
"""What a batch adds to the provenance: what was asked for besides the values, the pixels per
class, and the SHA-256 of the source as it lies on the disk (known without opening it)."""
DOUBTS = "doubts"
"""And what spoke against the image, in sentences (a list, empty of an image that suits)."""
COMPARED = ("model_digest", "tuning", "preprocessing", "refinement", "axis", "postprocess", SOURCE)


@dataclass(frozen=True)
class Standing:
    """What stands at a mask's place: nothing that counts, a finished mask of the same question,
    an earlier one of a batch for another question, or something that may be by hand."""

    kind: Literal["nothing", "finished", "earlier", "by hand"]
    counts: Mapping[int, int] = field(default_factory=dict)
    voxel_mm3: float | None = None
    device: str = ""


def standing(
    mask: Path, expected: Mapping[str, Any], save: tuple[str, ...], strict: bool = False
) -> Standing:
    """Look at the file ``mask``. ``expected``: the provenance of the mask asked for, ``save``:
    what must have been written beside it. ``strict``: one of an image in doubt does not count."""
    from napari_attnseg.io.comment import comment_of
    from napari_attnseg.io.image import read_mask
    from napari_attnseg.io.measure_space import space_of

    if not mask.exists():
        return Standing("nothing")
    try:
        volume = read_mask(mask)
        told: dict[str, Any] = comment_of(mask).get("provenance", {})
    except (AttnSegError, OSError, ValueError):
        return Standing("nothing")  # damaged or cut short by a copy: it never was the answer
    counts = counts_of(volume.data)
    ours = {ASKED, VOXELS} <= told.keys() and not told.get("edits")
    if not ours or told[VOXELS] != {str(k): n for k, n in counts.items()}:
        return Standing("by hand")
    doubted = strict and told.get(DOUBTS, True)
    if doubted or not _same(told, expected) or not _beside(mask, told[ASKED], save):
        return Standing("earlier")
    return Standing("finished", counts, voxel_mm3(space_of(volume)), str(told.get("device", "")))


def asked_for(tile: int | None, volume: Any, save: tuple[str, ...]) -> dict[str, Any]:
    """The part of a question that no other key of the provenance tells."""
    return {"tile": tile, "volume": volume, "save": sorted(save)}


def _same(told: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    wanted = json.loads(json.dumps(expected, default=str))
    if any(told.get(key) != wanted.get(key) for key in COMPARED):
        return False
    mine, theirs = ({k: v for k, v in d[ASKED].items() if k != "save"} for d in (told, wanted))
    return bool(mine == theirs)


def _beside(mask: Path, asked: Mapping[str, Any], save: tuple[str, ...]) -> bool:
    """Whether all of ``save`` was written with this very mask, and is there."""
    return all(extra in asked["save"] and place_of(mask, extra).exists() for extra in save)


def voxel_mm3(space: Any) -> float | None:
    """Volume of a voxel of a ``Space``, ``None`` where none is known and for a picture."""
    return space.voxel if space.unit == "mm" and not space.flat else None


def digest_of(source: Path) -> str:
    """SHA-256 of a file's bytes; of a folder of the names and bytes of its DICOM files, of an
    OME-Zarr of all but its labels: masks and tables that are put into a folder are no part of the
    image."""
    if source.is_file():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for path in sorted(_pixels_in(source)):
        whole.update(f"{path.relative_to(source).as_posix()}\0{digest_of(path)}\n".encode())
    return whole.hexdigest()


def _pixels_in(folder: Path) -> Iterator[Path]:
    zarr = is_zarr(folder)
    for path in folder.rglob("*"):
        labels = zarr and path.relative_to(folder).parts[0] == "labels"
        if path.is_file() and not labels and (zarr or is_dicom(path)):
            yield path
