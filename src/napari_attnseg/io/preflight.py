"""A look at training data before training: what pairs, what is labelled, what will go wrong.

Shown in the Train dock and cheap enough to run on every change of a folder: all headers are
read, but the pixels of a few files only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image, read_mask
from napari_attnseg.io.layout import Layout, read_item
from napari_attnseg.io.looks import Intensity, Looks
from napari_attnseg.io.measure_files import in_place
from napari_attnseg.io.pairs import Pairing, check_pair_sizes, pair_folders
from napari_attnseg.io.regrid import on_grid

SAMPLE = 12
"""Pairs whose pixels are looked at, spread evenly over the folder."""
FEW = 8
"""Fewer pairs than this deserve a word."""
T = TypeVar("T")
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Preflight:
    """What was found. ``problems`` stop training; ``notes`` are worth knowing.

    ``ids``: label ids of the sampled masks with their share of pixels, ascending. ``channels``:
    3 when all sampled images are coloured (their channels differ), else 1. ``signed``: values
    below -500, as in CT (Hounsfield units). ``checked``: pairs whose pixels were read.
    ``sizes``: (Z, Y, X) of all images with their number, the most frequent first.
    ``intensity``: raw values of the sampled images. ``unknown``: share of pixels that count for
    nothing. ``class_names``: of a recognised data set, whose ``ids`` are classes.
    """

    pairs: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ids: tuple[tuple[int, float], ...] = ()
    channels: int = 1
    signed: bool = False
    checked: int = 0
    pairing: Pairing | None = None
    sizes: tuple[tuple[Size, int], ...] = ()
    intensity: Intensity | None = None
    unknown: float = 0.0
    class_names: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training can start."""
        return not self.problems

    @property
    def classes(self) -> int:
        """Classes these masks speak of, background included (instance ids count as one class)."""
        if self.class_names:
            return len(self.class_names)
        largest = max((i for i, _ in self.ids), default=0)
        few = len(self.ids) <= 12 and largest <= 32
        return largest + 1 if few and largest > 1 else 2

    def balance(self) -> str:
        """The classes' shares of the pixels, in words."""
        if self.classes == 2 and len(self.ids) > 2:
            share = 1 - dict(self.ids).get(0, 0.0)
            return f"objects numbered one by one, {share:.1%} of the pixels: one class"
        names = dict(enumerate(self.class_names))
        text = ", ".join(f"{names.get(i, i)}: {share:.1%}" for i, share in self.ids[:12])
        return f"{text}; {self.unknown:.1%} of all pixels unknown" if self.unknown else text

    def sizes_text(self) -> str:
        """The images' sizes, in words (rows x columns, or slices x rows x columns)."""
        if not self.sizes:
            return ""
        shown = [size if size[0] > 1 else size[1:] for size, _ in self.sizes]
        if len(shown) == 1:
            return _words(shown[0])
        least, most = min(shown, key=np.prod), max(shown, key=np.prod)
        return f"{_words(least)} to {_words(most)}, {len(shown)} different sizes"

    def lines(self) -> list[str]:
        """The whole report, a line each: pairs, sizes, intensity, labels, problems, notes."""
        lines = [f"{self.pairs} pairs ({self.checked} looked at closely)"]
        if self.sizes:
            lines.append(f"sizes: {self.sizes_text()}")
        if self.intensity:
            kind = "colour" if self.channels == 3 else "grey"
            lines.append(f"intensity: {self.intensity.text()}, {kind}")
        if self.ids:
            lines.append(f"labels: {self.balance()}")
        lines += [f"problem: {text}" for text in self.problems]
        return lines + [f"note: {text}" for text in self.notes]


def preflight_folders(images: str | Path, masks: str | Path, sample: int = SAMPLE) -> Preflight:
    """Pair two folders and look at ``sample`` pairs. Problems are returned, never raised."""
    try:
        pairing = pair_folders(images, masks)
    except InputError as error:
        return Preflight(problems=(str(error),))
    wrong = check_pair_sizes(pairing.pairs)
    found = Looks()
    chosen = [p for p in _spread(pairing.pairs, sample) if not _named_in(p, wrong)]
    unreadable = [text for pair in chosen if (text := _look(found, *pair))]
    doubles = [
        f"same name, left out: {', '.join(p.name for p in group)}" for group in pairing.duplicates
    ]
    return _made(
        found,
        [image for image, _ in pairing.pairs],
        (*wrong, *unreadable),
        doubles,
        chosen,
        pairing,
    )


def preflight_layout(layout: Layout, sample: int = SAMPLE) -> Preflight:
    """The same for the training part of a recognised data set; ``ids`` are its classes."""
    wrong = check_pair_sizes(item.pair for item in layout.train)
    found = Looks()
    chosen = [i for i in _spread(layout.train, sample) if not _named_in(i.pair, wrong)]
    unreadable = []
    for item in chosen:
        try:
            image, target = read_item(item, layout.labels)
        except InputError as error:
            unreadable.append(str(error))
            continue
        found.add(image, target, (item.image.name, item.mask.name))
    return _made(
        found,
        [item.image for item in layout.train],
        (*wrong, *unreadable),
        list(layout.notes),
        chosen,
        class_names=layout.class_names,
    )


def _made(
    found: Looks,
    images: list[Path],
    problems: tuple[str, ...],
    notes: list[str],
    chosen: Sequence[object],
    pairing: Pairing | None = None,
    class_names: tuple[str, ...] = (),
) -> Preflight:
    """The report of what was found."""
    whole = len(chosen) >= len(images)
    if not problems and chosen:
        problems = found.problems(whole)
    few = [f"only {len(images)} pairs; expect little from so few"] if len(images) < FEW else []
    return Preflight(
        pairs=len(images),
        problems=problems,
        notes=(*notes, *found.remarks(whole), *few),
        ids=found.shares(),
        channels=found.channels,
        signed=found.signed,
        checked=len(chosen),
        pairing=pairing,
        sizes=_sizes(images),
        intensity=found.intensity(),
        unknown=found.unknown_share(),
        class_names=class_names,
    )


def _sizes(images: Iterable[Path]) -> tuple[tuple[Size, int], ...]:
    """Sizes by header; files that cannot be read are told elsewhere."""
    counted: Counter[Size] = Counter()
    for path in images:
        try:
            counted[image_size(path)] += 1
        except InputError:
            continue
    return tuple(counted.most_common())


def _look(found: Looks, image_path: Path, mask_path: Path) -> str:
    """Read one pair; the sentence when one of the two cannot be read."""
    try:
        image, mask = read_image(image_path), read_mask(mask_path)
        mask = on_grid(mask, image) if mask.part_of_grid else mask
        if mask.shape == image.shape:
            in_place(image, mask, mask_path, "its image")
    except InputError as error:
        return str(error)
    found.add(image, mask.view, (image_path.name, mask_path.name), mask.note)
    return ""


@dataclass(frozen=True)
class LabelCount:
    """Painted pixels of a labels layer. ``counts[c]``: pixels of class c (0 = background)."""

    counts: tuple[int, ...]
    slices: int
    problem: str = ""


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
        counts = _plane_counts(plane, size)
        total += counts
        slices += int(counts[0] < plane.size)
    return total, slices


def _plane_counts(plane: npt.NDArray[Any], size: int) -> npt.NDArray[np.int64]:
    """One look per id: for the few ids of strokes quicker than a histogram, and unlike that it
    lets other threads run."""
    counts = np.zeros(size + 1, np.int64)
    top = int(plane.max(initial=0))
    for k in range(1, min(top, size - 1) + 1):
        counts[k] = np.count_nonzero(plane == k)
    counts[size] = np.count_nonzero(plane >= size) if top >= size else 0
    counts[0] = plane.size - counts.sum()
    return counts


def _spread(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _named_in(pair: tuple[Path, Path], sentences: Iterable[str]) -> bool:
    words = {word.strip("(),;:'\"") for text in sentences for word in text.split()}
    return any(
        p.name in words or (" " in p.name and p.name in text) for p in pair for text in sentences
    )


def _words(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)
