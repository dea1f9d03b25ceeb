"""Which images ``predict`` works on, and where the mask of each goes."""

from __future__ import annotations

from pathlib import Path

from napari_attnseg.errors import InputError
from napari_attnseg.io.sniff import SUFFIXES, stem_of

OURS = ("_mask", "_preview", "_probability", "_objects")
"""Endings of what we write ourselves: in a folder these are no images to segment."""


def is_volume(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def collect(inputs: list[Path]) -> list[Path]:
    """Files as given; folders give the images right inside them, our own masks left out."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES))
            found += [p for p in inside if _is_input(p)]
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"got {path}, which does not exist; give an image or a folder")
    if not found:
        raise InputError(f"no image found; expected files ending in {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def _is_input(path: Path) -> bool:
    """Neither one of ours, nor one that somebody else is writing under a hidden name."""
    return not path.name.startswith(".") and not stem_of(path).endswith(OURS)


def targets(files: list[Path], out: Path) -> dict[Path, Path]:
    """Where each mask goes; two inputs that would write one mask are refused before work."""
    places: dict[Path, Path] = {}
    owner: dict[Path, Path] = {}
    for path in files:
        mask = out / f"{stem_of(path)}_mask{suffix_for(path)}"
        if mask in owner:
            raise InputError(
                f"{owner[mask]} and {path} would both be written to {mask.name}; "
                "predict them into different folders"
            )
        owner[mask], places[path] = path, mask
    return places


def suffix_for(path: Path) -> str:
    """The format of an image's mask."""
    return ".nii.gz" if is_volume(path) else ".png"
