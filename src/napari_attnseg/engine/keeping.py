"""What a training leaves behind: the best model with its card, and the resume state."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from napari_attnseg.cards import Card
from napari_attnseg.engine.data import Source
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.trainer_state import Progress, save_state, state_path
from napari_attnseg.models.checkpoint import save_checkpoint

STATE_SECONDS = 30.0
"""Between two savings of the state in the middle of an epoch."""


@cache
def _own_version() -> str:
    """Looked up once: it takes longer than writing a small card."""
    try:
        return version("napari-attnseg")
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Python, torch and this package."""
    python = platform.python_version()
    return {"python": python, "torch": torch.__version__, "napari-attnseg": _own_version()}


@dataclass(frozen=True)
class About:
    """Words for the card: the ``command`` that trains, a ``title``, ``text`` about limits."""

    command: str = ""
    title: str = ""
    text: str = ""


class Keeper:
    """Writes checkpoint ``out`` and the state beside it. ``threshold``: the default one found."""

    def __init__(self, out: Path, about: About, threshold: float) -> None:
        self.out, self.about, self.threshold = out, about, threshold
        self.split_text = ""
        self._state_saved = time.monotonic()

    @property
    def files(self) -> dict[str, str]:
        """What is written, by kind."""
        return {"checkpoint": str(self.out), "state": str(state_path(self.out))}

    def now_and_then(self, learner: Learner, progress: Progress) -> None:
        """The state, if it was not saved for a while."""
        if time.monotonic() - self._state_saved > STATE_SECONDS:
            save_state(state_path(self.out), learner, progress)
            self._state_saved = time.monotonic()

    def everything(self, learner: Learner, source: Source, progress: Progress) -> None:
        """The state, and the model as it is if no better one was ever judged."""
        save_state(state_path(self.out), learner, progress)
        if progress.best_epoch == 0:
            self.best(learner, source, progress, {})

    def best(
        self, learner: Learner, source: Source, progress: Progress, metrics: dict[str, Any]
    ) -> None:
        """The model as it is; ``metrics`` as in the card."""
        model, settings = learner.model, learner.settings
        card = Card(
            spec=model.spec.to_json(),
            preprocessing=settings.preprocessing,
            class_names=settings.class_names,
            class_colors=settings.class_colors,
            tuning=model.tuning().replace(**learner.values(self.threshold)),
            title=self.about.title or self.out.stem,
            text=self.about.text,
            provenance={
                "command": self.about.command,
                "data": source.describe(),
                "split": self.split_text,
                "seed": settings.seed,
                "device": str(learner.device),
                "epoch": progress.epoch,
                "versions": versions(),
                "date": datetime.now(UTC).date().isoformat(),
                "settings": settings.to_json(),
                **({"coarse": learner.coarse} if learner.coarse else {}),
            },
            metrics=metrics,
        )
        save_checkpoint(self.out, model, card)
