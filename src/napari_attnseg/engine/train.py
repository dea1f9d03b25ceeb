"""Training as a stream of events: stop by closing it, resume where it stood.

The same stream serves the command line, the Train dock and a script::

    source = FolderSource("images", "masks")
    for event in train(RECIPES["threshold-matters"], source, "model.safetensors"):
        print(event)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from napari_attnseg.control.messages import EpochDone, Event, Finished, Started
from napari_attnseg.engine.augment import Batch
from napari_attnseg.engine.coarse import keep_coarse
from napari_attnseg.engine.data import Slice, Source, split
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.epoch import Epoch
from napari_attnseg.engine.keeping import About, Keeper, versions
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.showing import Previewer, PreviewWish
from napari_attnseg.engine.trainer_state import Progress, load_state, state_path
from napari_attnseg.engine.validate import Validation, validate
from napari_attnseg.engine.volume_data import VolumeSource
from napari_attnseg.errors import EngineError, InputError
from napari_attnseg.settings import (
    TrainSettings,
    check_settings,
    with_encoder_normalisation,
    with_patch,
)

__all__ = ["train", "versions"]

T = TypeVar("T")
Stream = Generator[Event | None, None, None]


def train(
    settings: TrainSettings,
    source: Source,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
    preview: PreviewWish | None = None,
    should_stop: Callable[[], bool] | None = None,
    command: str = "",
    title: str = "",
    text: str = "",
) -> Stream:
    """Train and write the best model to ``out`` and the resume state beside it.

    Yields ``Started``, ``Note``, ``EpochDone``, ``Preview`` and ``Finished`` with ``id`` 0, and
    ``None`` as a heartbeat several times per batch, so that a caller can stop at any moment:
    either ``should_stop()`` turns true (``Finished("cancelled")`` follows) or the stream is
    closed. Both save the best model and the state. Equal settings and data give equal weights on
    one CPU with the same number of threads, whether or not the training was stopped meanwhile.

    Raises:
        InputError: labels or settings that cannot be trained on.
        CheckpointError: ``resume`` without a fitting state.
        EngineError: the loss is no longer a number.
        ExportError: no space.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise InputError(f"got output {path.name}, expected a name that ends in .safetensors")
    check_settings(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {path.parent} ({error.strerror}); choose another --out"
        ) from error
    settings = with_patch(with_encoder_normalisation(settings))
    if settings.preprocessing.patch:
        source = VolumeSource(source)
    keep_coarse(settings, path)
    keeper = Keeper(path, About(command, title, text), settings.threshold)
    run = _Run(settings, source, keeper, preview, should_stop or (lambda: False))
    yield from run.events(choose_device(device), resume)


class _Stop(Exception):
    """``should_stop`` turned true."""


class _Run:
    """One training run: what it works on, where it stands, what it has saved."""

    def __init__(
        self,
        settings: TrainSettings,
        source: Source,
        keeper: Keeper,
        preview: PreviewWish | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.settings, self.source, self.keeper = settings, source, keeper
        self.previewer, self.should_stop = Previewer(preview), should_stop
        self.progress = Progress()
        self.training: tuple[Slice, ...] = ()
        self.validation: tuple[Slice, ...] = ()
        self._began_at = 0

    # --- the stream -----------------------------------------------------------------------------

    def events(self, device: torch.device, resume: bool) -> Stream:
        yield None
        yield from self.source.scan(self.settings)
        self.settings = self.source.settings
        self._split()
        self.learner = Learner(self.settings, device, pretrained=not resume)
        yield from self._weigh()
        if resume:
            self.progress = load_state(state_path(self.keeper.out), self.learner)
        self._began_at = self.progress.epoch
        yield self._started(device)
        reason, keep = "cancelled", True
        try:
            reason = yield from self._epochs()
        except _Stop:
            pass
        except EngineError:
            keep = False
            raise
        finally:
            if keep:
                self.keeper.everything(self.learner, self.source, self.progress)
        yield self._finished(reason)

    def _started(self, device: torch.device) -> Started:
        notes = [*self.source.notes, f"split: {self.keeper.split_text}", *self.learner.notes]
        if self.progress.epoch or self.progress.step:
            at = f"epoch {self.progress.epoch + 1}, batch {self.progress.step + 1}"
            notes.append(f"resumed at {at}")
        return Started(
            device=str(device),
            total=self.settings.epochs,
            notes=tuple(notes),
            files=self.keeper.files,
        )

    def _finished(self, reason: str) -> Finished:
        p = self.progress
        summary: dict[str, Any] = {
            "best_dice": max(p.best, 0.0),
            "best_epoch": p.best_epoch,
            "epochs": p.epoch,
            "new_epochs": p.epoch - self._began_at,
            "measured_on": self.measured_on,
        }
        return Finished(reason=reason, outputs=self.keeper.files, summary=summary)

    def _beat(self) -> None:
        if self.should_stop():
            raise _Stop

    # --- epochs ---------------------------------------------------------------------------------

    def _epochs(self) -> Generator[Event | None, None, str]:
        while self.progress.epoch < self.settings.epochs:
            stalled = self._stalled()
            if stalled:
                return stalled
            if self.progress.step == 0 and self.source.refresh():
                self._split()
                yield from self._weigh()
                self.progress.best = -1.0  # judged on other labels than those there are now
            start = time.monotonic()
            yield from self._batches()
            yield from self._judge(start)
            yield from self._show(force=True)
        return self._stalled() or "done"

    def _stalled(self) -> str:
        p, patience = self.progress, self.settings.patience
        if not patience or p.epoch - p.best_epoch < patience:
            return ""
        where = "validation Dice" if self.held_out else "Dice on the training pixels"
        return (
            f"early stop: {where} has not risen for {p.epoch - p.best_epoch} epochs "
            f"(best {p.best:.4f} in epoch {p.best_epoch})"
        )

    def _batches(self) -> Stream:
        p = self.progress
        epoch = Epoch(self.settings, self.source, self.training, p.epoch)
        while p.step < epoch.steps:
            batch = yield from _watched(epoch.batch(p.step), self._beat)
            fraction = (p.epoch + p.step / epoch.steps) / self.settings.epochs
            yield from self._learn(batch, fraction)
            yield from self._show()
            self.keeper.now_and_then(self.learner, p)

    def _learn(self, batch: Batch, fraction: float) -> Stream:
        p = self.progress
        part = self.learner.learn(*batch, fraction, [self.settings.seed, 4, p.epoch, p.step])
        loss = yield from _watched(part, self._beat)
        p.loss_sum += loss
        if self.learner.regulariser is not None:
            p.regulariser_sum = (p.regulariser_sum or 0.0) + self.learner.regulariser
        p.step += 1

    def _judge(self, start: float) -> Stream:
        p, result = self.progress, Validation()
        part = validate(self.learner, self.source, self.validation, result)
        yield from _watched(part, self._beat)
        steps = max(p.step, 1)
        loss = p.loss_sum / steps
        regulariser = None if p.regulariser_sum is None else p.regulariser_sum / steps
        p.epoch, p.step, p.loss_sum, p.regulariser_sum = p.epoch + 1, 0, 0.0, None
        p.seconds += time.monotonic() - start
        dice = result.figures["dice"]
        # on its own training pixels the newer of two equals has seen more
        best = dice > p.best or (not self.held_out and dice == p.best)
        entry = {"epoch": p.epoch, "loss": loss, "regulariser": regulariser}
        p.history.append({**entry, "measured_on": self.measured_on, **result.figures})
        self.keeper.threshold = result.threshold
        if best:
            p.best, p.best_epoch = dice, p.epoch
            self.keeper.best(self.learner, self.source, p, self._metrics(result.figures))
        yield EpochDone(
            epoch=p.epoch,
            epochs=self.settings.epochs,
            loss=loss,
            validation_loss=result.loss,
            validation=result.figures,
            best=best,
            seconds=time.monotonic() - start,
            seconds_left=p.seconds / p.epoch * (self.settings.epochs - p.epoch),
            gamma=self.learner.gamma,
            regulariser=regulariser,
            measured_on=self.measured_on,
        )

    def _show(self, force: bool = False) -> Stream:
        event = self.previewer.show(self.learner, self.source, self.validation[0], force)
        if event is not None:
            yield event

    # --- what is learnt from, what is judged on -------------------------------------------------

    def _split(self) -> None:
        given = self.settings.validation, self.settings.seed, self.source.marked
        parts = split(self.source.slices, *given)
        self.training, self.validation, self.keeper.split_text = parts
        if isinstance(self.source, VolumeSource):
            self.source.keep_back(self.validation if self.held_out else ())
            words = self.keeper.split_text.replace("slices", "blocks of slices")
            self.keeper.split_text = words

    def _weigh(self) -> Stream:
        """Class weights from the labels of the training slices, where they are wanted."""
        if self.settings.class_weights != "balanced":
            return
        total = np.zeros(len(self.settings.class_names), np.int64)
        for counts in self.source.class_counts(self.training):
            total += counts
            yield None
        self.learner.weigh(total)

    @property
    def held_out(self) -> bool:
        """Whether the figures come from pixels that were not learnt from."""
        return self.training != self.validation

    @property
    def measured_on(self) -> str:
        """Where the figures come from, in words."""
        return "validation" if self.held_out else "training pixels"

    def _metrics(self, found: dict[str, float]) -> dict[str, Any]:
        """For the card: a Dice on pixels that were learnt from has another name than one that was
        measured on others."""
        if self.held_out:
            return {"validation": found}
        return {"training_pixels": {f"{k}_training_pixels": v for k, v in found.items()}}


def _watched(part: Generator[None, None, T], beat: Callable[[], None]) -> Generator[None, None, T]:
    """Pass heartbeats on and look between them whether to stop; returns the part's result."""
    try:
        while True:
            next(part)
            beat()
            yield None
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        part.close()
