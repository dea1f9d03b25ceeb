"""The test of one network or peer, closer than ``evaluate``: outlines and every iteration too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_attnseg.engine.evaluate import Judged, summarize
from napari_attnseg.engine.experiment.boundary import count_bands
from napari_attnseg.engine.experiment.walker import CHOICES, Walked, Walker
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.metrics import Counts, Scores, count, iou, score_histogram
from napari_attnseg.engine.session import Session
from napari_attnseg.io.layout import Item, Layout, read_item
from napari_attnseg.models.refined import RefinedModel

TRIED_ON = 24
"""Training images on which a peer's values are chosen."""
Answer = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Slice to labels and probability (Y, X)."""


@dataclass(frozen=True)
class Tally:
    """Agreement on an image or a slice of it. ``bands``: near the contours; ``steps``: of every
    iterate, the coarse map first (empty for what does not iterate)."""

    counts: Counts
    scores: Scores
    bands: Counts
    steps: tuple[Counts, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.counts + other.counts,
            self.scores + other.scores,
            self.bands + other.bands,
            tuple(a + b for a, b in zip(self.steps, other.steps, strict=True)),
        )


def examine(session: Session, layout: Layout, walker: Walker | None = None) -> dict[str, Any]:
    """The figures of ``evaluate_layout``, and ``boundary`` (see the module of that name) and
    ``iou@0``, ``iou@1``, ... of a refined model: means over images.

    With ``walker``: of its answers on top of the session's, and ``milliseconds`` per slice.
    """
    walked = None if walker is None else Walked(session, walker)
    answer = _predicted(session) if walked is None else walked.answer
    found = []
    for item in layout.test:
        target = _open(session, item, layout)
        found.append((item.image.name, _image(session, target, layout, answer)))
    figures = summarize([Judged(n, t.counts, t.scores) for n, t in found], layout.class_names)
    tallies = [tally for _, tally in found]
    figures["boundary"] = _mean(iou(t.bands) for t in tallies)
    for number in range(len(tallies[0].steps)):
        figures[f"iou@{number}"] = _mean(iou(t.steps[number]) for t in tallies)
    if walked is not None:
        figures["milliseconds"] = float(np.median(walked.milliseconds))
    return figures


def chosen_walker(session: Session, layout: Layout) -> Walker:
    """The walker with the highest mean IoU on some training images, evenly spread."""
    places = np.linspace(0, len(layout.train) - 1, min(TRIED_ON, len(layout.train)))
    walkers = [Walker(*choice) for choice in CHOICES]
    scores = np.zeros(len(walkers))
    for place in places.round():
        target = _open(session, layout.train[int(place)], layout)
        for number, walker in enumerate(walkers):
            answer = Walked(session, walker).answer
            scores[number] += iou(_image(session, target, layout, answer).counts)
    return walkers[int(scores.argmax())]


def gains(figures: dict[str, Any], coarse: dict[str, Any]) -> dict[str, float]:
    """``gain``: mean IoU less that of the coarse model; ``better``: part of the images whose IoU
    is higher. Both records are of the same images."""
    before = {row["name"]: row["iou"] for row in coarse["per_image"]}
    higher = [row["iou"] > before[row["name"]] for row in figures["per_image"]]
    gain = figures["iou"] - coarse["metrics"]["iou"]
    return {"gain": gain, "better": float(np.mean(higher))}


def _predicted(session: Session) -> Answer:
    def answer(z: int) -> tuple[np.ndarray, np.ndarray]:
        prediction = session.predict(z)
        return prediction.labels, prediction.probability

    return answer


def _open(session: Session, item: Item, layout: Layout) -> np.ndarray:
    """Give the session this image; returns its target (Z, Y, X)."""
    volume, target = read_item(item, layout.labels)
    session.set_image(volume)
    return target


def _image(session: Session, target: np.ndarray, layout: Layout, answer: Answer) -> Tally:
    """All slices of the open image together."""
    slices = _slices(session, target, len(layout.class_names), answer)
    total = next(slices)
    for tally in slices:
        total = total + tally
    return total


def _slices(session: Session, target: np.ndarray, classes: int, answer: Answer) -> Iterator[Tally]:
    for z in range(session.n_slices):
        labels, probability = answer(z)
        known = target[z] != IGNORE
        reference = target[z][known].astype(np.uint8)
        masks = [s.labels for s in session.steps(z)] if _iterates(session) else []
        yield Tally(
            count(labels[known], reference, classes),
            score_histogram(probability[known], reference),
            count_bands(labels, target[z], classes),
            tuple(count(mask[known], reference, classes) for mask in masks),
        )


def _iterates(session: Session) -> bool:
    return isinstance(session.model, RefinedModel) and not session.tiled


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
