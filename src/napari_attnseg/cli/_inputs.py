"""Which images ``predict`` works on, and where the mask of each goes."""

from __future__ import annotations

from pathlib import Path

from napari_attnseg.errors import InputError
from napari_attnseg.io.inputs import images_in, is_one_image, mask_suffix
from napari_attnseg.io.ome_zarr import is_zarr
from napari_attnseg.io.sniff import SUFFIXES, stem_of

OURS = ("_mask", "_preview", "_probability", "_objects")
"""Endings of what we write ourselves: in a folder these are no images to segment."""


def collect(inputs: list[Path]) -> list[Path]:
    """Files as given, and folders that are one image (DICOM slices, OME-Zarr); other folders give
    the images right inside them, our own masks left out."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir() and not is_one_image(path):
            found += [p for p in images_in(path) if _is_input(p)]
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"got {path}, which does not exist; give an image or a folder")
    if not found:
        raise InputError(
            f"no image found; expected files ending in {', '.join(SUFFIXES)}, folders of DICOM "
            "slices or OME-Zarr"
        )
    return list(dict.fromkeys(found))


def _is_input(path: Path) -> bool:
    """Neither one of ours, nor one that somebody else is writing under a hidden name."""
    return not path.name.startswith(".") and not stem_of(path).endswith(OURS)


def targets(files: list[Path], out: Path, extras: tuple[str, ...] = ()) -> dict[Path, Path]:
    """Where each mask goes. Refused before work: two inputs of which one file would be written,
    ``extras`` included, and a file that would take the place of an input."""
    from napari_attnseg.engine.batch_extras import place_of

    places: dict[Path, Path] = {}
    owner: dict[Path, Path] = {}
    inputs = {path.resolve() for path in files}
    for path in files:
        mask = places[path] = out / f"{_stem(path)}_mask{mask_suffix(path)}"
        for made in (mask, *(place_of(mask, extra) for extra in extras)):
            if made in owner:
                raise InputError(
                    f"{owner[made]} and {path} would both be written to {made.name}; "
                    "predict them into different folders"
                )
            if made.resolve() in inputs:
                raise InputError(
                    f"{path} would be written to {made}, which is one of the images; choose "
                    "another --out"
                )
            owner[made] = path
    return places


def _stem(path: Path) -> str:
    """A name without its ending; a folder of DICOM keeps all of its name."""
    return path.name if path.is_dir() and not is_zarr(path) else stem_of(path)
