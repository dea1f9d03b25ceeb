"""Live answers: one slice at moved values, and beside it the same slice at other ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.control.messages import Retune, Retuned
from napari_attnseg.engine.results import LiveFiles
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning

if TYPE_CHECKING:
    from napari_attnseg.engine.session import Session

LIVE_WINDOWS = 4
"""Windows of a 3D model that a live answer may take; where it needs more, one of them answers."""


@dataclass(frozen=True, eq=False)
class Live:
    """Labels uint8 and probability float32 (Y, X) of a slice, the cells over the threshold and
    all of them, the stages that ran, and the window that answered alone: its rows and columns, and
    in words."""

    labels: np.ndarray
    probability: np.ndarray
    over: int
    cells: int
    woken: tuple[str, ...]
    inside: tuple[slice, slice] = (slice(None), slice(None))
    window: str = ""


def retuned(session: Session, work: Retune, files: LiveFiles) -> Retuned:
    """Answer into ``files``; raises ``InputError`` for a comparison that the model cannot make."""
    began = time.perf_counter()
    other = _other(session, work) if work.compare else None
    answer_at = _way(session, work, other)
    answer = answer_at(work.tuning)
    files.labels[work.buffer] = answer.labels
    files.probability[work.buffer] = answer.probability
    counts = (0, 0, 0)
    if other is not None:
        before = answer_at(other).labels
        files.plain()[work.buffer] = before
        counts = _against(answer.labels[answer.inside] > 0, before[answer.inside] > 0)
    return Retuned(
        work.id,
        work.z,
        work.buffer,
        answer.over,
        answer.cells,
        int(np.count_nonzero(answer.labels)),
        answer.woken,
        *counts,
        seconds=time.perf_counter() - began,
        window=answer.window,
    )


def _way(session: Session, work: Retune, other: Tuning | None) -> Callable[[Tuning], Live]:
    """How both answers are made: of the whole slice or, where that takes too many windows for
    either, of one window."""
    tunings = [work.tuning] if other is None else [work.tuning, other]
    if sum(session.missing(work.z, t) for t in tunings) <= LIVE_WINDOWS:
        return lambda tuning: _whole(session, work.z, tuning)
    known = [
        _known(Path(work.out) / f"{name}.npy", session.shape, work.z)
        for name in ("labels", "probability")
    ]
    return lambda tuning: _in_window(session, work, tuning, known)


def _whole(session: Session, z: int, tuning: Tuning) -> Live:
    found = session.predict(z, tuning)
    return Live(found.labels, found.probability, found.over, found.cells, found.woken)


def _in_window(session: Session, work: Retune, tuning: Tuning, known: list[np.ndarray]) -> Live:
    near = (work.near[0], work.near[1]) if work.near else None
    found = session.window.answer(session, work.z, near, tuning)
    labels, probability = (plane.copy() for plane in known)
    found.put_into(labels, found.labels)
    found.put_into(probability, found.probability)
    woken = ("window", "cut") if found.new else ("cut",)
    inside = slice(*found.rows), slice(*found.columns)
    return Live(labels, probability, 0, 0, woken, inside, session.seen(work.z, near).where)


def _known(path: Path, shape: tuple[int, int, int], z: int) -> np.ndarray:
    """What a run has found for slice ``z`` so far, 0 where none has been."""
    kind = np.uint8 if path.stem == "labels" else np.float32
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return np.zeros(shape[1:], kind)
    return np.array(values[z], kind) if values.shape == shape else np.zeros(shape[1:], kind)


def _other(session: Session, work: Retune) -> Tuning:
    """The values that are compared with, plain attention's by default."""
    if work.against is not None:
        return work.against
    if "threshold" not in session.tuning.values:
        raise InputError(
            "this model has no threshold, so there is nothing to compare; turn the comparison off"
        )
    return work.tuning.replace(threshold=PLAIN_THRESHOLD)


def _against(now: np.ndarray, then: np.ndarray) -> tuple[int, int, int]:
    """Pixels gained, lost and kept."""
    kept = int(np.count_nonzero(now & then))
    return int(np.count_nonzero(now)) - kept, int(np.count_nonzero(then)) - kept, kept
