"""What a data set's folder holds: which mask belongs to which image, its split, its labels.

The families are recognised in ``io.layouts``; here is what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import mask_of, read_image
from napari_attnseg.io.pairs import list_images, pair_files
from napari_attnseg.io.volume import Volume

UNKNOWN = -1
"""Target value of pixels that count neither in training nor in evaluation."""
LAST_FIFTH = "last 20 % of the file names in byte order are the test part"


@dataclass(frozen=True)
class Item:
    """One labelled image. Pixels where ``region`` (a mask file) is 0 are unknown."""

    image: Path
    mask: Path
    region: Path | None = None

    @property
    def pair(self) -> tuple[Path, Path]:
        """(image, mask)."""
        return self.image, self.mask


@dataclass(frozen=True)
class LabelRule:
    """How stored ids become classes. ``class_names``: background first.

    ``classes``: (stored id, class) pairs, all other ids are background; empty: with one class
    every id above 0 belongs to it, with several the ids are the classes. ``ignore``: stored ids
    that become :data:`UNKNOWN`. ``cut``: the mask holds grey levels, ``>= cut`` is class 1.
    """

    name: str
    text: str
    class_names: tuple[str, ...]
    classes: tuple[tuple[int, int], ...] = ()
    ignore: tuple[int, ...] = ()
    cut: int = 0

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Targets int16 of the same shape. Raises ``InputError`` for an id without a class."""
        if self.cut:
            target = ids >= (self.cut if ids.max(initial=0) > 1 else 1)
        elif self.classes:
            target = np.zeros(ids.shape, np.int16)
            for stored, wanted in self.classes:
                target[ids == stored] = wanted
        elif len(self.class_names) == 2:
            target = ids > 0
        else:
            target = ids
            if target.max(initial=0) >= len(self.class_names):
                raise InputError(
                    f"got label {int(ids.max())}, expected at most {len(self.class_names) - 1} "
                    f"({', '.join(self.class_names)}); name all classes, or choose other labels"
                )
        target = target.astype(np.int16)
        for stored in self.ignore:
            target[ids == stored] = UNKNOWN
        return target


FOREGROUND = LabelRule(
    "foreground", "every id above 0 is the foreground", ("background", "foreground")
)


@dataclass(frozen=True)
class Layout:
    """A recognised data set. ``split`` says in words how ``train`` and ``test`` were parted.

    ``labels``: the rule in force, ``variants``: all that make sense for this data set.
    ``validation``: a part that the archive sets aside (not used for training or test).
    """

    name: str
    title: str
    root: Path
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    split: str
    variants: tuple[LabelRule, ...] = (FOREGROUND,)
    validation: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: LabelRule | None = None

    @property
    def labels(self) -> LabelRule:
        """How ids become classes."""
        return self.chosen or self.variants[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background first."""
        return self.labels.class_names

    @property
    def pairs(self) -> tuple[tuple[Path, Path], ...]:
        """(image, mask) of every part, sorted by image."""
        items = (*self.train, *self.validation, *self.test)
        return tuple(sorted((item.pair for item in items), key=lambda p: str(p[0]).encode()))

    def with_labels(self, name: str) -> Layout:
        """The same data under the labels called ``name``.

        ``id=1`` or ``id=1+2`` takes these stored ids as the foreground, whatever the data set.
        Raises ``InputError`` with the known names otherwise.
        """
        if name.startswith("id="):
            return replace(self, chosen=_ids_rule(name))
        for rule in self.variants:
            if rule.name == name:
                return replace(self, chosen=rule)
        known = ", ".join(rule.name for rule in self.variants)
        raise InputError(f"got labels {name!r} for {self.title}, expected {known} or id=1+2")

    def limited(self, count: int) -> Layout:
        """At most ``count`` images, spread evenly, four fifths of them for training (0: all).

        Both parts keep one image at least, so 1 gives 2, which a note says.
        """
        if not count or count >= len(self.train) + len(self.test):
            return self
        test = max(1, round(count / 5))
        train_part = _spread(self.train, max(1, count - test))
        test_part = _spread(self.test, test)
        found = len(train_part) + len(test_part)
        why = "; training and test need one each" if found > count else ""
        note = f"limited to {found} image{'s' * (found != 1)}, spread evenly{why}"
        return replace(self, train=train_part, test=test_part, notes=(*self.notes, note))

    def report(self) -> str:
        """A few lines for people."""
        parts = f"{len(self.train)} training and {len(self.test)} test images"
        if self.validation:
            parts += f", {len(self.validation)} validation images set aside"
        lines = [f"{self.title}: {parts}", f"split: {self.split}", f"labels: {self.labels.text}"]
        return "\n".join([*lines, *self.notes])


def read_item(item: Item, rule: LabelRule) -> tuple[Volume, np.ndarray]:
    """The image, and its target (Z, Y, X) int16 in the image's view order.

    Raises ``InputError`` when a file cannot be read or sizes differ.
    """
    image = read_image(item.image)
    try:
        target = rule.apply(_view(item.mask, image))
    except InputError as error:
        told = str(error)
        named = told if told.startswith(item.mask.name) else f"{item.mask.name}: {told}"
        raise InputError(named) from error
    if item.region is not None:
        target[_view(item.region, image) == 0] = UNKNOWN
    return image, target


def _view(path: Path, image: Volume) -> np.ndarray:
    """Ids of a mask (Z, Y, X), turned as its image is stored."""
    ids = mask_of(path, image)
    if ids.shape != image.shape:
        raise InputError(
            f"it is {ids.shape} but the image is {image.shape} (slices, rows, columns); "
            "expected equal sizes"
        )
    return ids


def _ids_rule(name: str) -> LabelRule:
    try:
        ids = [int(part) for part in name.removeprefix("id=").split("+")]
    except ValueError:
        raise InputError(f"got labels {name!r}, expected numbers as in id=1 or id=1+2") from None
    text = f"stored id {', '.join(str(i) for i in ids)} is the foreground"
    return LabelRule(name, text, ("background", "foreground"), tuple((i, 1) for i in ids))


def child(folder: Path, *names: str) -> Path | None:
    """The sub-folder called one of ``names``, whatever the case of its letters."""
    if not folder.is_dir():
        return None
    wanted = {name.casefold() for name in names}
    found = [p for p in folder.iterdir() if p.name.casefold() in wanted and p.is_dir()]
    return min(found, key=lambda p: p.name.encode()) if found else None


def folders(folder: Path) -> list[Path]:
    """Sub-folders in byte order, hidden ones left out."""
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(found, key=lambda p: p.name.encode())


def paired(images: Path, masks: Path) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items of two folders by file name (``io.pairs``), and a note on what stays unpaired."""
    pairing = pair_files(list_images(images), list_images(masks))
    left = len(pairing.unpaired_images) + len(pairing.unpaired_masks)
    notes = (f"{left} files in {images.name} and {masks.name} have no partner",) if left else ()
    return tuple(Item(*pair) for pair in pairing.pairs), notes


def last_fifth(items: Sequence[Item]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Training and test items: the last fifth by name (rounded down) is the test part."""
    ordered = sorted(items, key=lambda item: item.image.name.encode())
    first = len(ordered) - len(ordered) // 5
    return tuple(ordered[:first]), tuple(ordered[first:])


def by_stem(items: Iterable[Item], stems: Iterable[str]) -> tuple[Item, ...]:
    """The items whose image is called one of ``stems`` (without ending), in byte order."""
    wanted = set(stems)
    found = [item for item in items if item.image.stem in wanted]
    return tuple(sorted(found, key=lambda item: item.image.name.encode()))


def lines_of(path: Path) -> list[str]:
    """First words of the lines of a text file; comments and empty lines left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def _spread(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return tuple(items[i] for i in places)
