"""Can this model, with these settings, learn one single image by heart?

A model that cannot will not learn a thousand either: a wrong mask, a step size too small or too
large, or an intensity range that wipes the image out show here within a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import torch

from napari_attnseg.control.checks import OverfitDone, OverfitStep
from napari_attnseg.control.messages import Event, Started
from napari_attnseg.engine.augment import Draw, collate, draw_example
from napari_attnseg.engine.data import Slice, Source
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.metrics import count, dice
from napari_attnseg.engine.validate import labels_of
from napari_attnseg.engine.volume_data import VolumeSource, collate_patches
from napari_attnseg.errors import InputError
from napari_attnseg.settings import TrainSettings, with_encoder_normalisation, with_patch

STEPS = 100
EVERY = 5
"""Steps between two measurements of Dice."""
BY_HEART = 0.9
"""Dice from which an image counts as learnt; the check ends there."""
FALLEN = 0.8
"""Part of the first loss below which a loss counts as falling."""
FEW = 20
"""Steps below which a loss that did not fall says nothing yet."""
STILL = 0.99
"""Part of the mean loss of the middle third below which that of the last third still falls."""
PATCHES = 8
"""Of a volume that are drawn before one is chosen."""
COPIES = 2
"""Of the image in a batch: normalisation over a batch of one grid cell is not defined."""

Stream = Generator[Event | None, None, None]


def overfit(
    settings: TrainSettings,
    source: Source,
    *,
    device: str = "auto",
    steps: int = STEPS,
    should_stop: Callable[[], bool] | None = None,
) -> Stream:
    """Train a fresh model on one pair of ``source``, without augmentation, and say how it went.

    The recipe's own loss, optimiser and step size, without a schedule; of the slice with the most
    of all classes, or of one crop of it; for a 3D model of one patch of the volume. Yields
    ``Started`` (its notes name the image), an ``OverfitStep`` per step, ``OverfitDone`` with ``id``
    0 and ``None`` in between; it stops without a verdict when ``should_stop()`` turns true. Nothing
    is written.

    Raises:
        InputError: labels or settings that cannot be trained on.
        CheckpointError: encoder weights that do not fit.
        EngineError: the loss is no longer a number.
    """
    if steps < 1:
        raise InputError(f"got {steps} steps, expected at least 1")
    stop = should_stop or (lambda: False)
    settings = replace(with_encoder_normalisation(settings), augment=False, schedule="none")
    if settings.options.get("ndim") == 3:
        settings, source = with_patch(settings), VolumeSource(source)
    yield None
    yield from source.scan(settings)
    settings = source.settings
    chosen, counts = yield from _telling(source)
    learner = Learner(settings, choose_device(device))
    learner.weigh(counts)
    yield Started(
        device=str(learner.device),
        total=steps,
        notes=(f"image: {_name(source, chosen)}", *learner.notes),
    )
    yield from _Check(settings, source, learner, chosen).events(steps, stop)


def _telling(source: Source) -> Generator[None, None, tuple[Slice, np.ndarray]]:
    """The slice with most classes, of these the one whose rarest class is largest."""
    best: tuple[tuple[int, int], Slice, np.ndarray] | None = None
    for slice_, counts in zip(source.slices, source.class_counts(source.slices), strict=True):
        present = counts[counts > 0]
        rank = len(present), int(present.min())
        if best is None or rank > best[0]:
            best = rank, slice_, counts
        yield
    assert best is not None, "a source without slices does not scan"
    return best[1], best[2]


def _name(source: Source, slice_: Slice) -> str:
    volume = isinstance(source, VolumeSource)
    pairs = getattr(source.inner if volume else source, "pairs", ())  # type: ignore[attr-defined]
    name = pairs[slice_.pair][0].name if pairs else "the image layer"
    if isinstance(source, VolumeSource):
        own = (source.patch, source.whole(slice_.pair).target.shape)
        sides = " x ".join(str(min(pair)) for pair in zip(*own, strict=True))
        return f"{name}, one patch of {sides} voxels"
    return f"{name}, slice {slice_.z}" if len(source.pair(slice_.pair).view) > 1 else name


def _patch(
    source: VolumeSource, block: Slice, draw: Draw, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a few patches about a block the one with most classes, the rarest of them largest."""
    found = [source.drawn(block, draw, rng) for _ in range(PATCHES)]

    def rank(item: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, int]:
        counts = torch.bincount(item[1][item[1] != IGNORE].flatten().long())
        present = counts[counts > 0]
        return len(present), int(present.min()) if len(present) else 0

    return max(found, key=rank)


class _Check:
    """The steps on one image, which is drawn once."""

    def __init__(
        self, settings: TrainSettings, source: Source, learner: Learner, chosen: Slice
    ) -> None:
        self.settings, self.learner = settings, learner
        draw = Draw(settings.crop, False, source.oriented)
        rng = np.random.default_rng([settings.seed, 6])
        if isinstance(source, VolumeSource):
            self.image, self.target = _patch(source, chosen, draw, rng)
            self._together = collate_patches
        else:
            self.image, self.target = draw_example(source.example(chosen), draw, rng)
            self._together = collate
        self.losses: list[float] = []
        self.dice = self._measured()

    def events(self, steps: int, stop: Callable[[], bool]) -> Stream:
        start = time.monotonic()
        batch = self._together([(self.image, self.target)] * COPIES)
        for step in range(steps):
            loss = yield from self.learner.learn(*batch, 0.0, [self.settings.seed, 7, step])
            if stop():
                return
            self.losses.append(loss)
            if (step + 1) % EVERY == 0 or step + 1 == steps:
                self.dice = self._measured()
            yield OverfitStep(step=step + 1, steps=steps, loss=loss, dice=self.dice)
            if self.dice >= BY_HEART:
                break
        yield self._verdict(time.monotonic() - start)

    def _measured(self) -> float:
        """Dice over the labelled pixels of the crop, in evaluation mode."""
        values = self.learner.values(self.settings.threshold)
        found = labels_of(self.learner.logits(self.image, values))
        known = self.target.numpy() != IGNORE
        reference = self.target.numpy()[known]
        return dice(count(found[known], reference, len(self.settings.class_names)))

    def _verdict(self, seconds: float) -> OverfitDone:
        first, last = self.losses[0], float(np.mean(self.losses[-3:]))
        if self.dice >= BY_HEART:
            verdict = "learns"
        else:
            verdict = "slow" if last < FALLEN * first or self._undecided() else "stuck"
        return OverfitDone(
            verdict=verdict,
            text=self._sentence(verdict, first, last),
            first_loss=first,
            last_loss=last,
            dice=self.dice,
            steps=len(self.losses),
            seconds=seconds,
        )

    def _falling(self) -> bool:
        third = len(self.losses) // 3
        if not third:
            return False
        middle, end = self.losses[-2 * third : -third], self.losses[-third:]
        return bool(np.mean(end) < STILL * np.mean(middle))

    def _undecided(self) -> bool:
        """Whether more steps may still show that it learns."""
        return len(self.losses) < FEW or self._falling()

    def _sentence(self, verdict: str, first: float, last: float) -> str:
        steps = len(self.losses)
        figures = (
            f"Dice {self.dice:.3f} on the image after {steps} step{'s' * (steps != 1)}, "
            f"loss {first:.3f} at first, {last:.3f} as the mean of the last {min(3, steps)}"
        )
        if verdict == "learns":
            return f"learns: {figures}"
        if verdict == "slow" and not last < FALLEN * first:
            why = "the loss is still falling" if self._falling() else "too few steps to tell"
            return f"not yet: {why}; give more --check-steps ({figures})"
        if verdict == "slow":
            return (
                f"learns slowly: {figures}; the loss falls, so give more steps, or another lr than "
                f"{self.settings.lr:g}"
            )
        return (
            f"does not learn: {figures}; check that the mask belongs to the image and that the "
            f"intensity range shows it, or try another lr than {self.settings.lr:g}"
        )
