"""Masks in files: measured on their image, and compared with a reference in the same place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.agreement import Agreement, agreement
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.measure_space import Space, space_of
from napari_attnseg.io.measures import Measures, measure
from napari_attnseg.io.measures_csv import rows_against
from napari_attnseg.io.pairs import IMAGE_AFFIX, MASK_AFFIX
from napari_attnseg.io.regrid import on_grid
from napari_attnseg.io.sniff import stem_of
from napari_attnseg.io.volume import Volume

APART = 0.01
"""Share of a voxel by which two files of one scan may lie apart: affines are often float32."""


@dataclass(frozen=True)
class FileMeasures:
    """One mask: its measures, and its agreement with a reference if one was given. ``notes``: what
    reading the files changed or decided."""

    mask: Path
    measures: Measures
    agreements: tuple[Agreement, ...] | None = None
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Rows of a table: classes with their figures against the reference, then parts."""
        return rows_against(self.measures, self.agreements or (), mask=self.mask.name)


def measure_file(
    mask: Path,
    image: Path | None = None,
    reference: Path | None = None,
    tolerance: float | None = None,
    parts: bool = False,
    names: dict[int, str] | None = None,
) -> FileMeasures:
    """Measure the classes of a mask file. ``image`` and ``reference`` must have its size and,
    where files state one, its place. Raises ``InputError`` in one sentence otherwise."""
    ours = read_mask(mask)
    source = None if image is None else read_image(image)
    if source is not None and ours.part_of_grid:
        ours = on_grid(ours, source)
    space = space_of(ours)
    values = None if source is None or image is None else in_place(ours, source, image)
    found = measure(ours.view, space, values, names, parts)
    if reference is None:
        return FileMeasures(mask, found, notes=_notes(ours, source))
    truth = read_mask(reference)
    theirs = in_place(ours, truth, reference)
    compared = agreement(ours.view, theirs, space, names, tolerance)
    return FileMeasures(mask, found, compared, _notes(ours, source, truth))


def _notes(*read: Volume | None) -> tuple[str, ...]:
    told = (f"{v.path.name}: {v.note}" for v in read if v is not None and v.path and v.note)
    return tuple(dict.fromkeys(told))


def in_place(mask: Volume, other: Volume, path: Path, called: str = "the mask") -> Any:
    """``other``'s voxels (Z, Y, X[, C]) turned to run as the mask's do. ``path``: of ``other``;
    ``called``: what a sentence calls the first.

    Raises ``InputError`` when the two do not have the same voxels in the same places.
    """
    if other.part_of_grid:
        other = on_grid(other, mask)
    if mask.shape != other.shape:
        raise InputError(
            f"{called} is {mask.shape} but {path.name} is {other.shape} (Z, Y, X); "
            "take files of the same image, or resample one first"
        )
    if mask.geometry is None or other.geometry is None:
        return other.view
    axes = tuple(a for a in range(3) if mask.flips[a] != other.flips[a])
    apart = _apart(space_of(mask), space_of(other), other.shape, axes)
    if apart > APART:
        raise InputError(
            f"{path.name} does not lie where {called} lies: up to {apart:.3g} voxels apart"
            f"{_unit_words(space_of(mask), space_of(other))}; take files of the same scan, or "
            "resample one first"
        )
    return np.flip(other.view, axes) if axes else other.view


def _unit_words(mask: Space, other: Space) -> str:
    """Where one is a thousand or a million times the other: the unit in a header got lost."""
    size = float(np.median(np.array(other.spacing) / mask.spacing))
    power = round(np.log10(size) / 3)
    if not power or abs(size / 1000.0**power - 1) > APART:
        return ""
    return (
        f", its voxels {size:g} times as large: one of the two headers names another unit of "
        "length (a mask that lost its micrometres?)"
    )


def _apart(mask: Space, other: Space, shape: tuple[int, ...], axes: tuple[int, ...]) -> float:
    """Largest distance of corresponding corners, in voxels of the mask."""
    last = np.array(shape, float) - 1
    corners = last * np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    turned = corners.copy()
    turned[:, axes] = last[list(axes)] - turned[:, axes]
    away = np.linalg.norm(mask.world(corners) - other.world(turned), axis=1).max()
    return float(away / min(mask.spacing))


def partner(mask: Path, among: Iterable[Path]) -> Path:
    """The file of the same name but for ending and words as ``_mask``, ``_gt`` or ``_0000``.

    Raises ``InputError`` when there is none, or more than one.
    """
    key = _key(mask)
    found = [p for p in among if p.resolve() != mask.resolve() and _key(p) == key]
    if len(found) == 1:
        return found[0]
    words = f"{len(found)} files fit" if found else "no file fits"
    raise InputError(f"{words} {mask.name} by name; expected one named {key} in that folder")


def _key(path: Path) -> str:
    bare = re.sub(MASK_AFFIX, "", stem_of(path))
    return re.sub(IMAGE_AFFIX, "", bare).lower()
