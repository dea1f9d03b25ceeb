"""A look at training data before training: what pairs, what is labelled, what will go wrong.

Shown in the Train dock and cheap enough to run on every change of a folder: all headers are
read, but the pixels of a few files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.pairs import Pairing, check_pair_sizes, pair_folders

SAMPLE = 12
"""Pairs whose pixels are looked at, spread evenly over the folder."""
RARE = 0.001
"""A class with a smaller share of the labelled pixels deserves a word."""


@dataclass(frozen=True)
class Preflight:
    """What was found. ``problems`` stop training; ``notes`` are worth knowing.

    ``ids``: label ids of the sampled masks with their share of pixels, ascending. ``channels``:
    3 when all sampled images are coloured (their channels differ), else 1. ``signed``: values
    below -500, as in CT (Hounsfield units). ``checked``: pairs whose pixels were read.
    """

    pairs: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ids: tuple[tuple[int, float], ...] = ()
    channels: int = 1
    signed: bool = False
    checked: int = 0
    pairing: Pairing | None = None

    @property
    def ok(self) -> bool:
        """Whether training can start."""
        return not self.problems

    @property
    def classes(self) -> int:
        """Classes these masks speak of, background included (instance ids count as one class)."""
        largest = max((i for i, _ in self.ids), default=0)
        few = len(self.ids) <= 12 and largest <= 32
        return largest + 1 if few and largest > 1 else 2


@dataclass(frozen=True)
class LabelCount:
    """Painted pixels of a labels layer. ``counts[c]``: pixels of class c (0 = background)."""

    counts: tuple[int, ...]
    slices: int
    problem: str = ""


def preflight_folders(images: str | Path, masks: str | Path, sample: int = SAMPLE) -> Preflight:
    """Pair two folders and look at ``sample`` pairs. Problems are returned, never raised."""
    try:
        pairing = pair_folders(images, masks)
    except InputError as error:
        return Preflight(problems=(str(error),))
    wrong = check_pair_sizes(pairing.pairs)
    found = _Found()
    chosen = [p for p in _spread(pairing.pairs, sample) if not _named_in(p, wrong)]
    unreadable = [text for pair in chosen if (text := found.look(*pair))]
    problems = (*wrong, *unreadable)
    if not problems and chosen:
        problems = found.label_problems()
    return Preflight(
        pairs=len(pairing.pairs),
        problems=tuple(problems),
        notes=tuple(found.remarks(pairing)),
        ids=found.shares(),
        channels=3 if found.images and found.coloured == found.images else 1,
        signed=found.signed,
        checked=len(chosen),
        pairing=pairing,
    )


def count_labels(labels: npt.NDArray[Any], classes: int, sparse: bool) -> LabelCount:
    """Painted pixels per class of ``labels`` (Z, Y, X), and in one sentence what is missing.

    ``classes``: with background. ``sparse``: 0 is unlabelled, 1 background, 2 the first class;
    else 0 is background and, with one class, every other id is that class.
    """
    first = 1 if sparse else 0
    found, slices = _histogram(labels, first + classes)
    counts = [int(n) for n in found[first : first + classes]]
    beyond = int(found[first + classes :].sum())
    if not sparse and classes == 2:
        counts[1], beyond = counts[1] + beyond, 0
    return LabelCount(tuple(counts), slices, _label_problem(counts, beyond, classes, first))


def _label_problem(counts: list[int], beyond: int, classes: int, first: int) -> str:
    if beyond:
        return (
            f"{beyond} pixels have a label above {first + classes - 1}, which stands for no class; "
            "add a class or erase them"
        )
    if not any(counts):
        return "nothing is painted yet; paint a few strokes of every class, background as well"
    if not counts[0]:
        return "no background is painted; paint a few strokes where there is nothing to find"
    if not any(counts[1:]):
        return "only background is labelled; paint the class to be found as well"
    return ""


def _histogram(labels: npt.NDArray[Any], size: int) -> tuple[npt.NDArray[np.int64], int]:
    """Counts of ids 0..size-1 and, last, of all higher ones; slices with anything painted."""
    total, slices = np.zeros(size + 1, np.int64), 0
    for plane in labels:
        counts = np.bincount(np.minimum(plane.ravel(), size).astype(np.int64), minlength=size + 1)
        total += counts
        slices += int(counts[0] < plane.size)
    return total, slices


class _Found:
    """What a few files look like, gathered one after the other."""

    def __init__(self) -> None:
        self.images = self.coloured = 0
        self.signed = False
        self.pixels: dict[int, int] = {}
        self.empty: list[str] = []
        self.not_finite: list[str] = []

    def look(self, image_path: Path, mask_path: Path) -> str:
        """Read one pair; the sentence when one of the two cannot be read."""
        try:
            image, mask = read_image(image_path), read_mask(mask_path)
        except InputError as error:
            return str(error)
        self._image(image.view, image.rgb, image_path.name)
        self._mask(mask.view, mask_path.name)
        return ""

    def label_problems(self) -> tuple[str, ...]:
        """Nothing at all, or one class only, in every mask that was looked at."""
        if not self.pixels or set(self.pixels) == {0}:
            return ("the masks hold background only; give masks in which something is marked",)
        if 0 not in self.pixels:
            return ("the masks mark every pixel and leave no background; 0 must be background",)
        return ()

    def remarks(self, pairing: Pairing) -> Iterator[str]:
        """Sentences for the person."""
        for group in pairing.duplicates:
            yield f"same name, left out: {', '.join(p.name for p in group)}"
        if self.empty:
            yield f"{_some(self.empty)} without anything marked (kept: it shows background)"
        if self.not_finite:
            yield f"NaN or infinite pixels in {_some(self.not_finite)} (taken as 0)"
        for number, share in self.shares():
            if number and share < RARE and len(self.pixels) <= 12:
                yield f"label {number} covers only {share:.2%} of the pixels; more examples help"

    def shares(self) -> tuple[tuple[int, float], ...]:
        """Ids and their share of the pixels."""
        total = sum(self.pixels.values()) or 1
        return tuple((i, n / total) for i, n in sorted(self.pixels.items()))

    def _image(self, view: npt.NDArray[Any], rgb: bool, name: str) -> None:
        self.images += 1
        thin = view[:, ::4, ::4]
        if rgb:
            spread = np.ptp(thin[..., :3].astype(np.float64), axis=-1)
            self.coloured += bool(spread.mean() > 0.01 * max(float(thin.max()), 1e-9))
        if np.issubdtype(view.dtype, np.floating) and not np.isfinite(thin).all():
            self.not_finite.append(name)
        self.signed = self.signed or bool(np.nanmin(thin) < -500)

    def _mask(self, ids: npt.NDArray[Any], name: str) -> None:
        numbers, counts = np.unique(ids, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self.pixels[number] = self.pixels.get(number, 0) + count
        if not ids.any():
            self.empty.append(name)


def _spread(pairs: tuple[tuple[Path, Path], ...], count: int) -> list[tuple[Path, Path]]:
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).round().astype(int)]


def _named_in(pair: tuple[Path, Path], sentences: Iterable[str]) -> bool:
    return any(p.name in text for p in pair for text in sentences)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
