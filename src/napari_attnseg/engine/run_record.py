"""Which slices of a run are finished, kept beside its results so that a stopped run goes on.

Whoever dies in the middle, loses the slice he was at: a slice is marked after all its data were
handed to the system, and a mark counts only for the very question it was made for.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.cards import Card
from napari_attnseg.control.messages import Predict
from napari_attnseg.engine.results import SliceFile

ANSWER, MAPS = 1, 2
"""Marks of a slice: its answer is there; and the maps that cost a second pass, too."""


def question_of(work: Predict, card: Card) -> dict[str, Any]:
    """What the answer of a slice depends on; equal questions have equal answers."""
    return {
        "image": work.image.key,
        "path": work.image.path,
        "flips": list(work.image.flips),
        "spacing_mm": list(work.image.spacing_mm),
        "model": card.digest or uuid.uuid4().hex,  # without a digest no two are the same
        "spec": card.spec,
        "preprocessing": asdict(card.preprocessing),
        "defaults": card.tuning.to_json(),
        "device": work.device,
        "tuning": work.tuning.to_json(),
        "tile": work.tile,
        "axis": work.axis,
    }


class RunRecord:
    """The marks of ``slices`` slices in folder ``out``, for one question.

    Those made for another question are dropped, before anything is computed for the new one.
    """

    def __init__(self, out: Path, slices: int, question: dict[str, Any]) -> None:
        about, marks = out / "run.json", out / "done.npy"
        wanted = json.dumps({"slices": slices, **question}, sort_keys=True, default=list)
        if not (about.is_file() and marks.is_file() and about.read_text() == wanted):
            about.unlink(missing_ok=True)
            marks.unlink(missing_ok=True)
        self._marks = SliceFile(marks, (slices,), np.uint8)
        if not about.is_file():  # last of all: without it the marks count for nothing
            part = about.with_suffix(".part")
            part.write_text(wanted)
            os.replace(part, about)

    def mark(self, z: int, maps: bool) -> None:
        """Slice ``z`` is finished, with those maps that cost a second pass or without."""
        self._marks.write(z, np.asarray(MAPS if maps else ANSWER, np.uint8))

    def has(self, z: int, maps: bool) -> bool:
        """Whether nothing is left to be done for slice ``z``."""
        return int(self._marks.read(z)) >= (MAPS if maps else ANSWER)

    def close(self) -> None:
        """Nothing more is marked."""
        self._marks.close()
