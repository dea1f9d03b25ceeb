"""What is trained on: labelled slices out of folders of files, or out of one pair of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.engine.examples import (
    Cache,
    Example,
    Pair,
    Slice,
    network_input,
    pair_of,
    to_target,
    upright,
)
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.preprocess import intensity_limits
from napari_attnseg.engine.splitting import split
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing, TrainSettings

if TYPE_CHECKING:
    from napari_attnseg.control.messages import ImageRef

__all__ = [
    "Example",
    "FolderSource",
    "LayerSource",
    "Pair",
    "Slice",
    "Source",
    "network_input",
    "split",
    "to_target",
    "upright",
]

EXAMPLE_BYTES = 256 << 20
"""Prepared examples that are kept; beyond it the longest unused are prepared again."""


class Source(ABC):
    """Labelled slices. ``scan`` must have run before anything else is asked.

    ``marked``: the slices with some foreground. ``seen``: the classes that occur.
    """

    def __init__(self) -> None:
        self.settings = TrainSettings()
        self.slices: tuple[Slice, ...] = ()
        self.notes: list[str] = []
        self.seen: set[int] = set()
        self.marked: frozenset[Slice] = frozenset()
        self._examples = Cache(EXAMPLE_BYTES)

    @abstractmethod
    def pair(self, index: int) -> Pair:
        """The decoded pair ``index``."""

    @abstractmethod
    def find(self) -> Iterator[None]:
        """Fill ``slices`` and ``seen``; yields between files so that one can cancel."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for the model card: names and counts, no absolute paths."""

    def scan(self, settings: TrainSettings) -> Iterator[None]:
        """Find the labelled slices for these settings.

        Raises:
            InputError: nothing is labelled, or all labels are of one class.
        """
        self.settings, self.notes = settings, []
        self._examples.clear()
        yield from self.find()
        self._check_classes()

    def refresh(self) -> bool:
        """Look for newer labels; True when they were read (files never change)."""
        return False

    def example(self, slice_: Slice) -> Example:
        """The slice in training standing and network units (kept: do not write into it)."""
        found: Example | None = self._examples.get(slice_)
        if found is None:
            pair = self.pair(slice_.pair)
            image = network_input(pair, slice_.z, self.preprocessing)
            target = np.ascontiguousarray(upright(pair.target[slice_.z], pair.flips))
            found = Example(image, target)
            self._examples.put(slice_, found, image.nbytes + target.nbytes)
        return found

    def class_counts(self, slices: tuple[Slice, ...]) -> Iterator[np.ndarray]:
        """Labelled pixels of each class (int64, background first), slice by slice."""
        classes = len(self.settings.class_names)
        for slice_ in slices:
            target = self.pair(slice_.pair).target[slice_.z]
            yield np.bincount(target[target != IGNORE].ravel(), minlength=classes)[:classes]

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the settings scanned with."""
        return self.settings.preprocessing

    @property
    def oriented(self) -> bool:
        """Scans have a left and an up; micrographs may be turned and mirrored freely."""
        return self.pair(self.slices[0].pair).oriented

    def _check_classes(self) -> None:
        if not self.slices:
            raise InputError("got no labelled pixels, expected some; paint or add masks first")
        if len(self.seen) > 1:
            return
        names = self.settings.class_names
        only = names[next(iter(self.seen))]
        other = names[0] if only != names[0] else " or ".join(names[1:])
        raise InputError(
            f"got labels of one class only ({only}), expected at least two; label {other} as well"
        )

    def _note_classes(self, target: np.ndarray) -> None:
        self.seen |= {int(v) for v in np.unique(target)} - {IGNORE}


class PairCache(Cache):
    """Decoded files; beyond a GiB the longest unused are read again."""

    def __init__(self, limit: int = 1 << 30) -> None:
        super().__init__(limit)


class FolderSource(Source):
    """A folder of images and a folder of masks, paired by file name (``io.pairs``)."""

    def __init__(self, images: str | Path, masks: str | Path) -> None:
        super().__init__()
        self.images, self.masks = Path(images), Path(masks)
        self.pairs: tuple[tuple[Path, Path], ...] = ()
        self._spacing: list[list[float]] | None = None
        self._cache = PairCache()

    def find(self) -> Iterator[None]:
        from napari_attnseg.io.pairs import pair_folders

        pairing = pair_folders(self.images, self.masks)
        self.pairs = tuple(pairing.pairs)
        for path in (*pairing.unpaired_images, *pairing.unpaired_masks):
            self.notes.append(f"{Path(path).name} has no partner and is left out")
        self._cache, self.seen = PairCache(), set()
        found: list[Slice] = []
        marked: list[Slice] = []
        sizes: list[tuple[float, ...]] = []
        for index in range(len(self.pairs)):
            pair = self.pair(index)
            target = pair.target
            sizes.append(tuple(pair.spacing_mm))
            self._note_classes(target)
            found += [Slice(index, z) for z, t in enumerate(target) if (t != IGNORE).any()]
            marked += [Slice(index, z) for z, t in enumerate(target) if (t > 0).any()]
            yield
        self.slices, self.marked = tuple(found), frozenset(marked)
        self._spacing = spacing_range(sizes)

    def pair(self, index: int) -> Pair:
        known: Pair | None = self._cache.get(index)
        if known is None:
            known = self._read(*self.pairs[index])
            self._cache.put(index, known, known.view.nbytes + known.target.nbytes)
        return known

    def _read(self, image_path: Path, mask_path: Path) -> Pair:
        from napari_attnseg.io.image import mask_of, read_image

        image = read_image(image_path)
        ids = mask_of(mask_path, image)
        if image.view.shape[:3] != ids.shape[:3]:
            raise InputError(
                f"got {image_path.name} of {image.view.shape[:3]} and its mask {mask_path.name} "
                f"of {ids.shape[:3]} (slices, rows, columns), expected equal sizes"
            )
        target = to_target(ids, self.settings, mask_path.name)
        return pair_of(image, target, self.preprocessing)

    def describe(self) -> dict[str, Any]:
        return {
            "images": self.images.name,
            "masks": self.masks.name,
            "pairs": len(self.pairs),
            "slices": len(self.slices),
            "spacing_mm": self._spacing,
        }


def spacing_range(sizes: list[tuple[float, ...]]) -> list[list[float]] | None:
    """Smallest and largest voxel (mm, per view axis) of images; ``None`` if one is unknown.

    Goes into the card: an image of another voxel size is told before it is segmented.
    """
    if not sizes or any(len(size) != 3 for size in sizes):
        return None
    return [[float(f(axis)) for axis in zip(*sizes, strict=True)] for f in (min, max)]


class LayerSource(Source):
    """One image and one labels array (``.npy``, view order); labels are re-read on ``refresh``.

    Slices on which nothing is labelled are left out, also with dense labels: a person who
    labels a few slices of a volume has said nothing about the others.
    """

    def __init__(self, image: ImageRef, labels: str | Path, sparse: bool = False) -> None:
        super().__init__()
        self.image, self.labels, self.sparse = image, Path(labels), sparse
        self._pair: Pair | None = None
        self._stamp: tuple[int, int] = (0, 0)

    def find(self) -> Iterator[None]:
        if self.sparse and not self.settings.sparse:
            self.settings = replace(self.settings, sparse=True)
        view = self.image.open()
        yield
        self._pair = Pair(
            view,
            np.empty(0, np.int16),
            self.image.rgb,
            self.image.flips,
            tuple(self.image.spacing_mm),
            intensity_limits(view, self.image.rgb, self.preprocessing),
            len(view) > 1 or any(self.image.flips),
        )
        self._take(np.load(self.labels, allow_pickle=False))
        yield

    def _take(self, ids: np.ndarray) -> None:
        assert self._pair is not None
        if ids.shape != self._pair.view.shape[:3]:
            raise InputError(
                f"got labels of {ids.shape} for an image of {self._pair.view.shape[:3]} (slices, "
                "rows, columns), expected equal sizes; choose the labels drawn on this image"
            )
        target = to_target(ids, self.settings, "the labels layer")
        labelled = [z for z, plane in enumerate(ids) if plane.any()]
        self.seen = set()
        for z in labelled:
            self._note_classes(target[z])
        self.slices = tuple(Slice(0, z) for z in labelled)
        self.marked = frozenset(s for s in self.slices if (target[s.z] > 0).any())
        self._pair = replace(self._pair, target=target)
        self._examples.clear()
        self._stamp = self._now()

    def _now(self) -> tuple[int, int]:
        stat = self.labels.stat()
        return stat.st_mtime_ns, stat.st_ino

    def refresh(self) -> bool:
        """Re-read the labels if the file changed; labels that cannot train keep the older ones."""
        before = (self._pair, self.slices, self.marked, self.seen, self._stamp)
        try:
            if self._now() == self._stamp:
                return False
            self._take(np.load(self.labels, allow_pickle=False))
            self._check_classes()
        except (InputError, OSError, ValueError):  # half written, or everything was erased
            self._pair, self.slices, self.marked, self.seen, self._stamp = before
            return False
        return True

    def pair(self, index: int) -> Pair:
        assert self._pair is not None, "scan first"
        return self._pair

    def describe(self) -> dict[str, Any]:
        return {"layer": True, "sparse": self.settings.sparse, "slices": len(self.slices)}
