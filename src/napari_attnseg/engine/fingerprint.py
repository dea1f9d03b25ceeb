"""The threshold fingerprint: area, components, Dice and IoU against every threshold, one pass.

Where every grid cell owns its pixels (``Pipeline.cell``), each cell's counts are fixed per
variant: it contributes those of ``on`` while its ``step`` exceeds the threshold and those of
``off`` otherwise. Sorting ``step`` once and summing the differences from the top gives the exact
counts at *every* threshold. Components join across cells, so they are labelled, at most once per
distinct mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from napari_attnseg.engine.metrics import Counts, count, dice, iou
from napari_attnseg.engine.pipeline import Pipeline
from napari_attnseg.engine.predict import cut_logits
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Curves over ``thresholds`` (float64, ascending); all arrays have its length.

    ``area``: foreground pixels. ``components``: connected regions (8-connected, per class).
    ``dice``, ``iou``: mean over foreground classes as in ``metrics``, empty without reference.
    ``step``: float32, all grid values of the slice, for the histogram.
    """

    thresholds: np.ndarray
    area: np.ndarray
    components: np.ndarray
    dice: np.ndarray
    iou: np.ndarray
    step: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """Pixel counts (T, K) int64 of K foreground classes at T thresholds: of the mask, of its
    overlap with the reference; ``reference`` (K,) of the reference itself."""

    predicted: np.ndarray
    overlap: np.ndarray
    reference: np.ndarray


def choose_thresholds(step: np.ndarray, points: int) -> np.ndarray:
    """Up to ``points`` thresholds that show the curve on a linear and on a quantile scale.

    Half run evenly over the range of ``step``, half are its quantiles; 0, 1 and plain
    attention (2.0) are always there.
    """
    half = max(points - 3, 2) // 2
    values = step.astype(np.float64)
    linear = np.linspace(values.min(), values.max(), half)
    quantiles = np.quantile(values, np.linspace(0, 1, half))
    return np.unique(np.clip([0.0, *linear, *quantiles, 1.0, PLAIN_THRESHOLD], 0, None))


def cell_sums(pixels: np.ndarray, cell: int, grid: tuple[int, int]) -> np.ndarray:
    """Sum of a bool map (Y, X) over each grid cell: int64 (h, w); border cells may be cut."""
    h, w = grid
    padded = np.zeros((h * cell, w * cell), np.int64)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded.reshape(h, cell, w, cell).sum((1, 3))


def curve_sums(
    step: np.ndarray, off: np.ndarray, on: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Sum over cells of ``on`` where ``step > t`` else ``off``, for every t: int64 (T,).

    ``step`` (h, w) float32; ``off``, ``on`` (h, w) counts. Thresholds are compared as float32,
    as the gate does. O(N log N) for N cells, any number of thresholds.
    """
    order = np.argsort(step, axis=None)
    gain = (on.astype(np.int64) - off).ravel()[order]
    from_top = np.concatenate([np.cumsum(gain[::-1])[::-1], [0]])
    first_over = np.searchsorted(step.ravel()[order], thresholds.astype(step.dtype), side="right")
    return int(off.sum()) + from_top[first_over]


def count_components(labels: np.ndarray) -> int:
    """Connected regions (8-connected in 2D) of every foreground class together."""
    around = np.ones((3,) * labels.ndim, int)
    top = int(labels.max(initial=0))
    masks = (labels == c for c in range(1, top + 1)) if top > 1 else (labels,)
    return sum(int(ndimage.label(mask, around)[1]) for mask in masks)


def trace_fingerprint(
    pipeline: Pipeline,
    z: int,
    values: Mapping[str, Any],
    points: int = 64,
    reference: np.ndarray | None = None,
    thresholds: tuple[float, ...] | None = None,
) -> Fingerprint:
    """Fingerprint of slice ``z`` at the other ``values``; ``reference`` (Y, X) ids, 0 background.

    For a one-class model every id but 0 is foreground. Raises ``InputError`` for a model
    without ``step``.
    """
    heavy = pipeline.attended(z, values)
    if heavy.attended is None or "threshold" not in values:
        raise InputError("this model has no threshold, so it has no fingerprint")
    step = heavy.attended.step[0].float().cpu().numpy()
    chosen = choose_thresholds(step, points) if thresholds is None else np.array(thresholds)
    chosen = np.sort(chosen.astype(np.float64))
    classes = max(2, pipeline.model.spec.classes)
    if reference is not None:
        reference = (reference > 0).astype(np.uint8) if classes == 2 else reference
        check_ids(reference, classes)
    flat = _flat_variants(pipeline, z, values)
    if flat is None:
        return _walk(pipeline, z, values, chosen, reference, classes, step)
    area, curves = _flat_curves(flat, chosen, reference, classes)
    parts = _per_mask(step, chosen, lambda t: count_components(flat.labels(t)))
    scores = () if reference is None else [counts_at(curves, i) for i in range(chosen.size)]
    return _finish(chosen, area, parts, scores, step)


def check_ids(reference: np.ndarray, classes: int) -> None:
    """Raise ``InputError`` when the reference holds a class the model does not know."""
    top = int(reference.max(initial=0))
    if top >= classes:
        raise InputError(
            f"the reference holds class {top}, but the model knows classes 0 to {classes - 1}; "
            "choose labels with the same classes"
        )


@dataclass(frozen=True, eq=False)
class Flat:
    """Both variants as class ids (Y, X) where every grid cell owns its pixels."""

    off: np.ndarray
    on: np.ndarray
    step: np.ndarray
    cell: int

    def labels(self, threshold: float) -> np.ndarray:
        """Class ids (Y, X) at a threshold."""
        mask = (self.step > np.float32(threshold)).repeat(self.cell, 0).repeat(self.cell, 1)
        return np.where(mask[: self.off.shape[0], : self.off.shape[1]], self.on, self.off)


def _flat_variants(pipeline: Pipeline, z: int, values: Mapping[str, Any]) -> Flat | None:
    """Both variants cut to ids; ``None`` where cells do not own whole pixels of the image."""
    if pipeline.cell is None:
        return None
    v = pipeline.variants(z, values)
    if tuple(v.off.shape[-2:]) != pipeline.full_size():
        return None
    off, on = (cut_logits(x[0], values["cut"]).labels.cpu().numpy() for x in (v.off, v.on))
    return Flat(off, on, v.step[0].float().cpu().numpy(), pipeline.cell)


def _flat_curves(
    flat: Flat, thresholds: np.ndarray, reference: np.ndarray | None, classes: int
) -> tuple[np.ndarray, Curves]:
    """Exact area, and counts of mask and overlap per class, at every threshold."""

    def curve(keep: np.ndarray | bool, c: int) -> np.ndarray:
        off, on = (
            cell_sums((v == c) & keep, flat.cell, flat.step.shape) for v in (flat.off, flat.on)
        )
        return curve_sums(flat.step, off, on, thresholds)

    ids = range(1, classes)
    predicted = np.stack([curve(True, c) for c in ids], 1)
    if reference is None:
        none = np.zeros(classes - 1, np.int64)
        return predicted.sum(1), Curves(predicted, np.zeros_like(predicted), none)
    overlap = np.stack([curve(reference == c, c) for c in ids], 1)
    own = np.array([(reference == c).sum() for c in ids])
    return predicted.sum(1), Curves(predicted, overlap, own)


def counts_at(curves: Curves, i: int) -> Counts:
    """Agreement at threshold ``i`` (without true negatives, which Dice and IoU do not need)."""
    tp = curves.overlap[i]
    return Counts(tp, curves.predicted[i] - tp, curves.reference - tp, np.zeros_like(tp))


def _per_mask(step: np.ndarray, thresholds: np.ndarray, make: Callable[[float], Any]) -> list[Any]:
    """``make(t)`` for every threshold, called once for neighbours with the same mask."""
    found: list[Any] = []
    last = -1
    for t in thresholds:
        over = int((step > np.float32(t)).sum())
        found.append(found[-1] if over == last else make(float(t)))
        last = over
    return found


def _walk(
    pipeline: Pipeline,
    z: int,
    values: Mapping[str, Any],
    thresholds: np.ndarray,
    reference: np.ndarray | None,
    classes: int,
    step: np.ndarray,
) -> Fingerprint:
    """The general path: gate and decode once per distinct mask."""

    def look(t: float) -> tuple[int, int, Counts | None]:
        labels = pipeline.answer(z, {**values, "threshold": t})[0].labels.cpu().numpy()
        score = None if reference is None else count(labels, reference, classes)
        return int((labels > 0).sum()), count_components(labels), score

    seen = _per_mask(step, thresholds, look)
    scores = [c for _, _, c in seen if c is not None]
    return _finish(thresholds, [a for a, _, _ in seen], [n for _, n, _ in seen], scores, step)


def _finish(
    thresholds: np.ndarray,
    area: Sequence[int] | np.ndarray,
    components: Sequence[int],
    scores: Sequence[Counts],
    step: np.ndarray,
) -> Fingerprint:
    return Fingerprint(
        thresholds,
        np.asarray(area, np.int64),
        np.asarray(components, np.int64),
        np.array([dice(c) for c in scores]),
        np.array([iou(c) for c in scores]),
        step.ravel(),
    )
