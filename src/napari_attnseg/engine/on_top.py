"""A refinement on top of any model: the coarse map comes from the one, guidance from the other.

A refined checkpoint carries the coarse model that it was trained with. Here that one is left out,
and the logits of another model take its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.refining import Step, refined_model
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models.guided import Guided
from napari_attnseg.settings import Tuning

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.io.volume import Volume

OWN = ("iterations", "cut")
"""Values of the refiner that count here; all others steer the coarse model that is left out."""


class OnTop:
    """The masks of ``coarse`` at ``tuning``, refined by the refinement in ``refiner``.

    Classes are those of ``coarse``. Raises ``InputError`` for a ``refiner`` without refinement
    and for one that tells other classes apart.
    """

    def __init__(self, coarse: Session, refiner: Session, tuning: Tuning | None = None) -> None:
        self.coarse, self.refiner = coarse, refiner
        self.coarse_tuning = coarse.tuning if tuning is None else tuning
        self._model = refined_model(refiner.model)
        self._check_classes()

    @property
    def card(self) -> Card:
        """The coarse model's: what the classes of the masks are called."""
        return self.coarse.card

    @property
    def classes(self) -> int:
        """Classes of the masks, background included."""
        return self.coarse.classes

    @property
    def n_slices(self) -> int:
        """Slices of the image."""
        return self.coarse.n_slices

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know of both models, each thing once."""
        return tuple(dict.fromkeys((*self.coarse.notes, *self.refiner.notes)))

    def set_image(self, image: Volume) -> None:
        """Both models take another image, each with its own preprocessing."""
        self.coarse.set_image(image)
        self.refiner.set_image(image)

    def run(self, tuning: Tuning | None = None) -> Iterator[tuple[int, Step]]:
        """The refined mask of every slice; ``tuning``: ``iterations`` and ``cut``."""
        for z in range(self.n_slices):
            *_, last = self._iterates(z, tuning, whole=False)
            yield z, last

    def steps(self, z: int = 0, tuning: Tuning | None = None) -> tuple[Step, ...]:
        """Every iterate of slice ``z``, the coarse mask (number 0) first."""
        return tuple(self._iterates(z, tuning, whole=True))

    def provenance(self, tuning: Tuning | None = None) -> dict[str, Any]:
        """What an exported mask should say: of the coarse model all, and what refined it."""
        values = self.refiner._values(tuning)
        return {
            **self.coarse.provenance(self.coarse_tuning),
            "notes": list(self.notes),
            "refinement": {
                "model": Path(self.refiner.name).name,
                "model_digest": self.refiner.card.digest,
                "kind": self.refiner.card.spec["options"].get("refine", ""),
                "tuning": {name: values[name] for name in OWN},
                "preprocessing": asdict(self.refiner.card.preprocessing),
            },
        }

    # -- inside ----------------------------------------------------------------------------------

    def _check_classes(self) -> None:
        mine, theirs = (s.card.class_names for s in (self.coarse, self.refiner))
        one = len(mine) == len(theirs) == 2  # then any foreground is carried on alike
        if not one and mine != theirs:
            raise InputError(
                f"got a refinement of {', '.join(theirs[1:])} for masks of {', '.join(mine[1:])}, "
                "expected the same classes in the same order; choose a refinement that was trained "
                "with --coarse on a model of these classes"
            )

    def _iterates(self, z: int, tuning: Tuning | None, whole: bool) -> Iterator[Step]:
        """Iterates of slice ``z``: all of them, or the last one alone."""
        values = self.refiner._values(tuning)
        logits = self.coarse.predict(z, self.coarse_tuning).logits
        work = self._all if whole else self._last
        yield from self.refiner._guarded(lambda: work(z, logits, values))

    def _last(self, z: int, logits_CYX: np.ndarray, values: dict[str, Any]) -> list[Step]:
        last = self._model.propagate(self._guided(z, logits_CYX), values["iterations"])
        return [self._step(values["iterations"], last, values, None)]

    def _all(self, z: int, logits_CYX: np.ndarray, values: dict[str, Any]) -> list[Step]:
        guided = self._guided(z, logits_CYX)
        found: list[Step] = []
        iterates = self._model.steps(guided, values["iterations"])
        for number, x in enumerate(chain([guided.start], iterates)):
            found.append(self._step(number, x, values, found[-1] if found else None))
        return found

    def _guided(self, z: int, logits_CYX: np.ndarray) -> Guided:
        s = self.refiner
        standing = np.stack([s._standing(channel) for channel in logits_CYX])
        x = resize(torch.from_numpy(standing)[None], s._working_size(), antialias=True)
        start = as_channels(x, s.model.spec.classes)
        return self._model.guide_from(s._prepare(z), start.to(s.device))

    def _step(
        self, number: int, logits: torch.Tensor, values: dict[str, Any], before: Step | None
    ) -> Step:
        s = self.refiner
        answer = s.pipeline.finish(logits, values)
        labels = s._back(answer.labels)
        changed = 0 if before is None else int(np.count_nonzero(labels != before.labels))
        return Step(number, labels, s._back(answer.probability), changed)


def as_channels(logits_BCHW: torch.Tensor, channels: int) -> torch.Tensor:
    """One class may be told by one channel (its logit) or by two (background, class): the logits
    in the other form. More classes stay as they are."""
    have = logits_BCHW.shape[1]
    if have == channels:
        return logits_BCHW.float()
    if (have, channels) == (1, 2):
        half = logits_BCHW.float() / 2
        return torch.cat([-half, half], 1)
    if (have, channels) == (2, 1):
        background, own = logits_BCHW.float().split(1, 1)
        return own - background
    raise InputError(f"got {have} maps of logits, expected {channels}")
