"""A recognised data set (``io.layouts``) as something to train on and to evaluate on.

Masks are read by the data set's own rule, and pixels that the rule calls unknown (the border of a
trimap, what lies outside the field of view) count neither in the loss nor in any figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.engine.data import Example, FolderSource, Pair, Slice
from napari_attnseg.engine.evaluate import Judged, Maker, as_maker, summarize
from napari_attnseg.engine.examples import pair_of
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.metrics import count, score_histogram
from napari_attnseg.errors import InputError
from napari_attnseg.io.layout import UNKNOWN, Item, LabelRule, Layout, read_item
from napari_attnseg.settings import Preprocessing, Tuning

assert UNKNOWN == IGNORE, "targets are passed on as they are"


EXAMPLE_BYTES = 256 << 20
"""Prepared examples that are kept; they are prepared again when there are more."""


class LayoutSource(FolderSource):
    """The training part of a data set; the training loop takes its validation part out of it.

    Examples at a fixed working size are prepared once, also for several trainings in a row.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.root, layout.root)
        self.layout = layout
        self._items = {item.pair: item for item in layout.train}
        self._prepared: dict[Slice, Example] = {}
        self._prepared_for: Preprocessing | None = None
        self._room = EXAMPLE_BYTES

    def example(self, slice_: Slice) -> Example:
        found = self._prepared.get(slice_)
        if found is None:
            found = super().example(slice_)
            size = found.image.nbytes + found.target.nbytes
            if self.preprocessing.size and size <= self._room:
                self._prepared[slice_] = found
                self._room -= size
        return found

    def find(self) -> Iterator[None]:
        names = self.settings.class_names
        if len(names) != len(self.layout.class_names):
            raise InputError(
                f"got classes {', '.join(names)} for data whose labels are "
                f"{', '.join(self.layout.class_names)}; expected as many, choose other labels"
            )
        if self.preprocessing != self._prepared_for:
            self._prepared_for, self._room = self.preprocessing, EXAMPLE_BYTES
            self._prepared.clear()
            self._cache = type(self._cache)()
        self.pairs = tuple(item.pair for item in self.layout.train)
        self.notes += self.layout.report().splitlines()
        self.seen = set()
        found: list[Slice] = []
        marked: list[Slice] = []
        for index in range(len(self.pairs)):
            target = self.pair(index).target
            self._note_classes(target)
            found += [Slice(index, z) for z, t in enumerate(target) if (t != IGNORE).any()]
            marked += [Slice(index, z) for z, t in enumerate(target) if (t > 0).any()]
            yield
        self.slices, self.marked = tuple(found), frozenset(marked)

    def _read(self, image_path: Path, mask_path: Path) -> Pair:
        item = self._items[image_path, mask_path]
        image, target = read_item(item, self.layout.labels)
        return pair_of(image, target, self.preprocessing)

    def describe(self) -> dict[str, Any]:
        layout = self.layout
        return {
            "data": layout.title,
            "layout": layout.name,
            "labels": layout.labels.text,
            "split": layout.split,
            "pairs": len(layout.train),
            "test_pairs": len(layout.test),
            "slices": len(self.slices),
        }


def judge_items(
    session: Maker, items: Iterable[Item], rule: LabelRule, tuning: Tuning | None = None
) -> Iterator[Judged]:
    """Segment image after image and count agreement on the known pixels; stop by not asking on."""
    classes = session.classes
    if len(rule.class_names) != classes:
        raise InputError(
            f"got labels of {len(rule.class_names)} classes ({', '.join(rule.class_names)}) for a "
            f"model of {classes}; choose other labels or another model"
        )
    for item in items:
        volume, target = read_item(item, rule)
        session.set_image(volume)
        yield judge_slices(session, item.image.name, target, classes, tuning)


def judge_slices(
    session: Maker, name: str, target: np.ndarray, classes: int, tuning: Tuning | None
) -> Judged:
    """Agreement of the session's image with ``target`` (Z, Y, X), unknown pixels left out."""
    parts = []
    for z, prediction in session.run(tuning=tuning):
        known = target[z] != IGNORE
        reference = target[z][known].astype(np.uint8)
        counts = count(prediction.labels[known], reference, classes)
        parts.append((counts, score_histogram(prediction.probability[known], reference)))
    counts, scores = parts[0]
    for more, further in parts[1:]:
        counts, scores = counts + more, scores + further
    return Judged(name, counts, scores)


def evaluate_layout(
    checkpoint: Any, layout: Layout, device: str = "auto", tuning: Tuning | None = None
) -> dict[str, Any]:
    """The figures of ``engine.evaluate.evaluate`` over the test part of a data set."""
    session = as_maker(checkpoint, device)
    judged = list(judge_items(session, layout.test, layout.labels, tuning))
    return summarize(judged, layout.class_names)
