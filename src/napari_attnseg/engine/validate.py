"""How good the model is now: loss, Dice and IoU on the slices kept back, and previews."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from napari_attnseg.engine.data import Example, Slice, Source
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.metrics import (
    Counts,
    Scores,
    auc,
    count,
    dice,
    figures,
    miou,
    score_histogram,
)
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.volume_data import VolumeSource

STEP_SLICES = 8
"""Validation slices whose ``step`` gives the default threshold when thresholds are drawn."""
BATCH = 4
"""Slices of one size judged at once: together they take a fifth to a third less time."""
BATCH_PIXELS = 1 << 20
"""More pixels than this are not put together: one can stop between batches."""
TALLY_PIXELS = 1 << 20
"""Pixels whose probabilities are gathered before they are sorted into bins: a histogram of 65,536
bins for every small slice would cost more than the slice."""


@dataclass
class Validation:
    """``loss``: mean over slices. ``figures``: those of ``metrics.METRICS`` but F1 (it is Dice)
    and ``auc`` (left out with one kind of pixel alone), over all labelled pixels of all slices;
    plus ``dice_image`` and ``miou_image`` (means over images) and ``dice_<class>``."""

    loss: float = float("nan")
    figures: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.0


class _Tally:
    """Counts and probabilities of slice after slice."""

    def __init__(self, classes: int) -> None:
        self.counts: list[Counts] = []
        self._classes = classes
        self._scores: Scores | None = None
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._pixels = 0

    def add(self, logits: torch.Tensor, target: np.ndarray) -> None:
        """One slice: logits (K, Y, X), target (Y, X)."""
        labels, chance, known = labels_of(logits), probability(logits), target != IGNORE
        if not known.all():
            labels, chance, target = labels[known], chance[known], target[known]
        self.counts.append(count(labels, target, self._classes))
        self._waiting.append((chance.ravel(), target.ravel()))
        self._pixels += target.size
        if self._pixels >= TALLY_PIXELS:
            self._sort_in()

    def join(self, first: int) -> None:
        """All from slice number ``first`` on are one volume."""
        if own := self.counts[first:]:
            self.counts[first:] = [sum(own[1:], own[0])]

    @property
    def scores(self) -> Scores:
        """The histogram over all slices."""
        self._sort_in()
        assert self._scores is not None, "add a slice first"
        return self._scores

    def _sort_in(self) -> None:
        if self._waiting:
            chances, targets = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
            new = score_histogram(chances, targets)
            self._scores = new if self._scores is None else self._scores + new
            self._waiting, self._pixels = [], 0


def probability(logits: torch.Tensor) -> np.ndarray:
    """(Y, X) float32: foreground probability; with several classes p_f / (p_f + p_0)."""
    if len(logits) == 1:
        return torch.sigmoid(logits[0]).numpy()
    best = logits[1:].max(0).values
    return torch.sigmoid(best - logits[0]).numpy()


def labels_of(logits: torch.Tensor) -> np.ndarray:
    """(Y, X) class ids at a cut of 0.5 (sigmoid >= 0.5, or the arg-max)."""
    if len(logits) == 1:
        return (logits[0] >= 0).numpy().view(np.uint8)
    best, index = logits[1:].max(0)
    return torch.where(best >= logits[0], index + 1, 0).numpy()


def default_threshold(learner: Learner, source: Source, slices: tuple[Slice, ...]) -> float:
    """The trained threshold, or with drawn thresholds the median ``step`` (half the cells over)."""
    if learner.settings.threshold_draw == "fixed":
        return learner.settings.threshold
    jump = max(1, len(slices) // STEP_SLICES)
    steps = [learner.step_of(source.example(s).image) for s in slices[::jump][:STEP_SLICES]]
    found = [s for s in steps if s is not None]
    if not found:
        return learner.settings.threshold
    return float(f"{np.median(np.concatenate(found)):.3g}")


def validate(
    learner: Learner, source: Source, slices: tuple[Slice, ...], result: Validation
) -> Generator[None, None, None]:
    """Fill ``result`` at the default threshold; yields between slices so that one can stop."""
    if isinstance(source, VolumeSource):
        yield from _validate_volumes(learner, source, slices, result)
        return
    result.threshold = default_threshold(learner, source, slices)
    yield
    values = learner.values(result.threshold)
    classes = len(source.settings.class_names)
    losses: list[float] = []
    tally = _Tally(classes)
    for examples in _batches(source, slices):
        together = torch.stack([example.image for example in examples])
        for example, logits in zip(examples, learner.logits_of(together, values), strict=True):
            logits = resize(logits[None], example.target.shape, antialias=False)[0]
            target = torch.from_numpy(example.target)
            losses.append(float(learner.loss(logits[None], target[None])))
            tally.add(logits, example.target)
            yield
    result.loss = float(np.mean(losses))
    result.figures = _figures(tally.counts, tally.scores, source.settings.class_names)


def _validate_volumes(
    learner: Learner, source: VolumeSource, slices: tuple[Slice, ...], result: Validation
) -> Generator[None, None, None]:
    """Blocks of volumes through windows; ``dice_image`` is the mean over volumes."""
    result.threshold = learner.settings.threshold
    values = learner.values(result.threshold)
    losses: list[float] = []
    tally = _Tally(len(source.settings.class_names))
    for pair in sorted({s.pair for s in slices}):
        windows, target, first = source.windows(pair), source.whole(pair).target, len(tally.counts)
        for z in (z for s in slices if s.pair == pair for z in source.planes(s)):
            if (target[z] == IGNORE).all():
                continue
            logits = yield from windows.logits((), z, lambda x: learner.logits_of(x, values))
            losses.append(float(learner.loss(logits[None], target[z][None])))
            tally.add(logits, target[z].numpy())
            yield
        tally.join(first)
    result.loss = float(np.mean(losses))
    result.figures = _figures(tally.counts, tally.scores, source.settings.class_names)


def _batches(source: Source, slices: tuple[Slice, ...]) -> Iterator[list[Example]]:
    """The slices in order, neighbours of equal size together."""
    waiting: list[Example] = []
    for slice_ in slices:
        example = source.example(slice_)
        full = len(waiting) == BATCH or (len(waiting) + 1) * example.image[0].numel() > BATCH_PIXELS
        if waiting and (full or waiting[0].image.shape != example.image.shape):
            yield waiting
            waiting = []
        waiting.append(example)
    if waiting:
        yield waiting


def _figures(counted: list[Counts], scores: Scores, names: tuple[str, ...]) -> dict[str, float]:
    total = sum(counted[1:], counted[0])
    found = figures(total) | {"auc": auc(scores)}
    del found["f1"]
    found["dice_image"] = float(np.mean([dice(c) for c in counted]))
    found["miou_image"] = float(np.mean([miou(c) for c in counted]))
    if len(names) > 2:
        found |= {f"dice_{n}": dice(total.of_class(i)) for i, n in enumerate(names) if i}
    return {name: value for name, value in found.items() if not np.isnan(value)}
