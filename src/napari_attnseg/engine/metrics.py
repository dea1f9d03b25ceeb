"""Agreement of a mask with its reference, from four exact pixel counts per class.

Every figure is a function of :class:`Counts` (true/false positives/negatives of each foreground
class), so "per image" and "over all pixels" differ only in whether counts are added first.
With several foreground classes a figure is the plain mean over the classes that occur in the
mask or in the reference; a class absent from both says nothing and is left out.

*Empty masks.* When a class is absent from mask and reference alike, every figure is 1 (nothing
to find, nothing found). When it is absent from one of them, Dice, IoU, precision, recall and F1
are 0. The area under the ROC curve needs pixels of both kinds and is ``nan`` otherwise; means
leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_attnseg.errors import InputError


@dataclass(frozen=True)
class Counts:
    """Pixels of one or more images, one entry per foreground class (int64 arrays, equal length).

    ``tp`` in mask and reference, ``fp`` in the mask alone, ``fn`` in the reference alone,
    ``tn`` in neither. ``correct``/``total``: pixels whose class id is right / all pixels
    (0 where unknown).
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    correct: int = 0
    total: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
            self.correct + other.correct,
            self.total + other.total,
        )

    def of_class(self, index: int) -> Counts:
        """The counts of foreground class ``index`` (1 = first) alone."""
        i = slice(index - 1, index)
        right = int(self.tp[i].sum() + self.tn[i].sum())
        return Counts(self.tp[i], self.fp[i], self.fn[i], self.tn[i], right, self.total)


def count(labels: np.ndarray, reference: np.ndarray, classes: int = 2) -> Counts:
    """Count agreement of two id arrays of equal shape (0 = background, ids below ``classes``).

    Raises ``InputError`` when shapes differ or an id is not below ``classes``.
    """
    if labels.shape != reference.shape:
        raise InputError(
            f"mask is {labels.shape} but the reference is {reference.shape}; "
            "compare masks of the same image"
        )
    top = int(max(labels.max(initial=0), reference.max(initial=0)))
    if top >= classes:
        raise InputError(
            f"found class id {top}, expected ids below {classes}; "
            "check that masks and model speak of the same classes"
        )
    table = _pairs_of_two(labels, reference) if classes == 2 else _pairs(labels, reference, classes)
    tp = np.diag(table)[1:].astype(np.int64)
    fp = table.sum(1)[1:] - tp
    fn = table.sum(0)[1:] - tp
    total = int(table.sum())
    return Counts(tp, fp, fn, total - tp - fp - fn, int(np.trace(table)), total)


def _pairs(labels: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes): pixels by their id in ``labels`` (rows) and in ``reference``."""
    pairs = labels.astype(np.int64).ravel() * classes + reference.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _pairs_of_two(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """:func:`_pairs` of ids 0 and 1, quicker: a training counts after every epoch."""
    a, b = labels > 0, reference > 0
    both, mine, true = (int(np.count_nonzero(m)) for m in (a & b, a, b))
    return np.array([[a.size - mine - true + both, true - both], [mine - both, both]])


def _ratio(over: np.ndarray, under: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """``over / under``; where ``under`` is 0: 1 for a class absent from both, else 0."""
    return np.where(under > 0, over / np.maximum(under, 1), empty.astype(float))


def _mean(values: np.ndarray, c: Counts) -> float:
    present = (c.tp + c.fp + c.fn) > 0
    return float(values[present].mean()) if present.any() else 1.0


def _absent(c: Counts) -> np.ndarray:
    return (c.tp + c.fp + c.fn) == 0


def dice(c: Counts) -> float:
    """``2 tp / (2 tp + fp + fn)``: overlap against the mean size of mask and reference."""
    return _mean(_ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn, _absent(c)), c)


def iou(c: Counts) -> float:
    """``tp / (tp + fp + fn)``: intersection over union (Jaccard)."""
    return _mean(_ratio(c.tp, c.tp + c.fp + c.fn, _absent(c)), c)


def precision(c: Counts) -> float:
    """``tp / (tp + fp)``: which part of the mask is right; 0 for an empty mask that misses."""
    return _mean(_ratio(c.tp, c.tp + c.fp, _absent(c)), c)


def recall(c: Counts) -> float:
    """``tp / (tp + fn)``: which part of the reference was found (sensitivity)."""
    return _mean(_ratio(c.tp, c.tp + c.fn, _absent(c)), c)


def specificity(c: Counts) -> float:
    """``tn / (tn + fp)``: which part of the background stayed background; 1 without background."""
    return _mean(_ratio(c.tn, c.tn + c.fp, np.ones_like(c.tp, bool)), c)


def f1(c: Counts) -> float:
    """Harmonic mean of precision and recall of each class; equal to Dice by definition."""
    p = _ratio(c.tp, c.tp + c.fp, _absent(c))
    r = _ratio(c.tp, c.tp + c.fn, _absent(c))
    return _mean(np.where(p + r > 0, 2 * p * r / np.maximum(p + r, 1e-300), 0.0), c)


def accuracy(c: Counts) -> float:
    """Part of all pixels whose class id is right, background included; ``nan`` if unknown."""
    return c.correct / c.total if c.total else float("nan")


def miou(c: Counts) -> float:
    """Mean IoU over all classes, the background among them, as in the semantic-segmentation
    literature (``iou`` leaves the background out).

    The mean runs over the classes that occur in mask or reference. Per image it is the mean of
    that image's classes; pooled, of the classes' IoU over all pixels. ``nan`` where the number
    of pixels is unknown.
    """
    if not c.total:
        return float("nan")
    tp = int(c.tp.sum())
    both = c.correct - tp  # background in mask and in reference
    either = 2 * c.total - 2 * tp - int(c.fp.sum() + c.fn.sum()) - both
    over, under = [*c.tp.tolist(), both], [*(c.tp + c.fp + c.fn).tolist(), either]
    return float(np.mean([o / u for o, u in zip(over, under, strict=True) if u]))


METRICS: dict[str, Callable[[Counts], float]] = {
    "dice": dice,
    "iou": iou,
    "miou": miou,
    "precision": precision,
    "recall": recall,
    "accuracy": accuracy,
    "specificity": specificity,
    "f1": f1,
}


def figures(c: Counts) -> dict[str, float]:
    """All figures of :data:`METRICS` by name."""
    return {name: metric(c) for name, metric in METRICS.items()}


# --- area under the ROC curve -------------------------------------------------------------------

BINS = 1 << 16


@dataclass(frozen=True)
class Scores:
    """Histogram of foreground probabilities over positive and negative pixels (int64, BINS)."""

    positive: np.ndarray
    negative: np.ndarray

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.positive + other.positive, self.negative + other.negative)


def score_histogram(probability: np.ndarray, reference: np.ndarray) -> Scores:
    """Histogram probabilities in [0, 1] into 65,536 equal bins, foreground against background."""
    bins = probability.ravel() * BINS  # whole numbers up to 2^24 are exact in float32
    np.clip(bins, 0, BINS - 1, out=bins)
    np.floor(bins, out=bins)
    bins += bins.dtype.type(BINS) * (reference.ravel() > 0)
    both = np.bincount(bins.astype(np.int64), minlength=2 * BINS)
    return Scores(both[BINS:], both[:BINS])


def auc(s: Scores) -> float:
    """Area under the ROC curve of foreground against background, ties counted half.

    The chance that a random foreground pixel has a higher probability than a random background
    pixel (Mann-Whitney). Probabilities within one of 65,536 bins count as tied. ``nan`` when
    one kind of pixel is absent.
    """
    n_positive, n_negative = int(s.positive.sum()), int(s.negative.sum())
    if not n_positive or not n_negative:
        return float("nan")
    below = np.cumsum(s.negative) - s.negative
    wins = (s.positive * (below + 0.5 * s.negative)).sum(dtype=np.float64)
    return float(wins / (n_positive * n_negative))


def mean_of(values: Iterable[float]) -> float:
    """Mean without the ``nan`` entries; ``nan`` when nothing is left."""
    kept = [v for v in values if not np.isnan(v)]
    return float(np.mean(kept)) if kept else float("nan")


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """The same dictionary with ``nan`` as ``None``, so that it is valid JSON."""
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in data.items()}


# --- the published code's own figure ------------------------------------------------------------


def legacy_columnwise_iou(mask: np.ndarray, reference: np.ndarray) -> float:
    """IoU as the authors' released scripts compute it, only for comparing with their tables.

    ``mask``, ``reference``: (B, H, W), non-zero = foreground. Intersection and union are summed
    over each image *column* (axis H) instead of the image, columns empty in both count as 1,
    and the result is the mean over all columns of all images. It is not the IoU: the toy case
    in the tests gives 0.888 where the true IoU is 0.5.
    """
    a, b = mask.astype(bool), reference.astype(bool)
    intersection = (a & b).sum(axis=1).astype(np.float64)
    union = (a | b).sum(axis=1).astype(np.float64)
    smooth = 1e-6
    return float(((intersection + smooth) / (union + smooth)).mean())
