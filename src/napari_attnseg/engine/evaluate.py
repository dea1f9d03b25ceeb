"""Figures of a model over pairs of image and reference mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.engine.metrics import (
    METRICS,
    Counts,
    Scores,
    auc,
    count,
    figures,
    mean_of,
    plain,
    score_histogram,
)
from napari_attnseg.engine.on_top import OnTop
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning

Pair = tuple[Path, Path]
Maker = Session | OnTop
"""What makes masks: a model, or a refinement on top of one."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Agreement on one image: a 2D image, or a whole volume taken as one. ``note``: what reading
    its mask decided, in words."""

    name: str
    counts: Counts
    scores: Scores
    note: str = ""


def read_pair(image: Path, mask: Path, notes: list[str] | None = None) -> tuple[Any, np.ndarray]:
    """Volume and reference ids (Z, Y, X) of equal size, both in the image's view order.

    What reading the mask decided is appended to ``notes``.
    Raises ``InputError`` when one cannot be read or their sizes differ.
    """
    from napari_attnseg.io.image import mask_of, read_image

    volume = read_image(image)
    reference = mask_of(mask, volume, notes)
    if reference.shape[:3] != volume.view.shape[:3]:
        raise InputError(
            f"{mask.name} is {reference.shape[:3]} but {image.name} is {volume.view.shape[:3]} "
            "(Z, Y, X); make the mask from the same image, or resample it first"
        )
    return volume, reference


def as_classes(reference: np.ndarray, classes: int, name: str) -> np.ndarray:
    """Reference ids as the model counts them: one foreground class takes every id but 0.

    Raises ``InputError`` when an id is not among the model's classes.
    """
    if classes <= 2:
        return (reference > 0).astype(np.uint8)
    top = int(reference.max(initial=0))
    if top >= classes:
        raise InputError(
            f"{name} holds class {top}, but the model knows classes 0 to {classes - 1}; "
            "choose masks with the same classes"
        )
    return reference


def judge(session: Maker, image: Path, mask: Path, tuning: Tuning | None = None) -> Judged:
    """Segment one image and count its agreement with the mask."""
    notes: list[str] = []
    volume, reference = read_pair(image, mask, notes)
    classes = session.classes
    reference = as_classes(reference, classes, mask.name)
    session.set_image(volume)
    total: tuple[Counts, Scores] | None = None
    for z, prediction in session.run(tuning=tuning):
        counts = count(prediction.labels, reference[z], classes)
        scores = score_histogram(prediction.probability, reference[z])
        total = (counts, scores) if total is None else (total[0] + counts, total[1] + scores)
    assert total is not None
    return Judged(image.name, *total, note="; ".join(notes))


def judge_all(
    session: Maker, pairs: Iterable[Pair], tuning: Tuning | None = None
) -> Iterator[Judged]:
    """Judge pair after pair; stop by not asking on."""
    for image, mask in pairs:
        yield judge(session, Path(image), Path(mask), tuning)


def summarize(judged: list[Judged], class_names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Means per image, pooled figures, figures per class, and one row per image.

    Top level: the mean over images of every figure (``auc`` over the images that have both
    kinds of pixels). ``pooled``: the same from all pixels together. ``per_class``: pooled
    figures of each foreground class when there are several. ``n``: number of images. ``notes``,
    if there are any: what reading the masks decided.
    """
    if not judged:
        raise InputError("no image to evaluate; expected at least one pair of image and mask")
    rows: list[dict[str, Any]] = [
        {"name": j.name, **figures(j.counts), "auc": auc(j.scores)} for j in judged
    ]
    counts, scores = judged[0].counts, judged[0].scores
    for j in judged[1:]:
        counts, scores = counts + j.counts, scores + j.scores
    names = (*METRICS, "auc")
    result: dict[str, Any] = {k: mean_of(r[k] for r in rows) for k in names}
    result |= {"n": len(rows), "pooled": plain({**figures(counts), "auc": auc(scores)})}
    if counts.tp.size > 1:
        result["per_class"] = {
            _class_name(class_names, c): plain(figures(counts.of_class(c)))
            for c in range(1, counts.tp.size + 1)
        }
    said = Counter(j.note for j in judged if j.note)
    told = [f"{n} mask{'s'[: n != 1]}: {note}" for note, n in said.items()]
    notes = {"notes": told} if told else {}
    return plain(result) | notes | {"per_image": [plain(row) for row in rows]}


def _class_name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else f"class {index}"


def as_maker(checkpoint: Any, device: str = "auto") -> Maker:
    """The model itself, opened where it is not yet."""
    opened = isinstance(checkpoint, Session | OnTop)
    return checkpoint if opened else Session(checkpoint, device)


def evaluate(
    checkpoint: Any,
    pairs: Iterable[Pair],
    device: str = "auto",
    tuning: Tuning | None = None,
) -> dict[str, Any]:
    """Dice, IoU, precision, recall, accuracy, specificity, F1 and AUC of a model over pairs.

    ``checkpoint``: whatever ``Session`` takes, a ``Session``, or an ``OnTop`` (``tuning`` is then
    that of the refinement). See :func:`summarize` for the result; it is plain data, ``None`` where
    a figure is undefined.
    """
    session = as_maker(checkpoint, device)
    judged = list(judge_all(session, pairs, tuning))
    return summarize(judged, tuple(session.card.class_names))
