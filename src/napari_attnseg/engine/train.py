"""Training as a stream of events: stop by closing it, resume where it stood.

The same stream serves the command line, the Train dock and a script::

    source = FolderSource("images", "masks")
    for event in train(RECIPES["threshold-matters"], source, "model.safetensors"):
        print(event)
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_attnseg.cards import Card
from napari_attnseg.control.messages import EpochDone, Event, Finished, Preview, Started
from napari_attnseg.engine.augment import Batch, Draw, collate, draw_example
from napari_attnseg.engine.data import Slice, Source, split
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.trainer_state import Progress, load_state, save_state, state_path
from napari_attnseg.engine.validate import Validation, validate, write_preview, write_shown_image
from napari_attnseg.errors import EngineError, InputError
from napari_attnseg.models.checkpoint import save_checkpoint
from napari_attnseg.settings import TrainSettings

MIN_CROPS = 64
"""Random crops of one epoch when there are fewer slices than this."""
PREVIEW_SECONDS = 3.0
STATE_SECONDS = 30.0

PreviewWish = Callable[[], tuple[int, str | Path] | None]
"""Asked between batches: the z to predict (-1: the first validation slice) and where to write
its probability (.npy), or ``None`` for no preview."""
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {path.parent} ({error.strerror}); choose another --out"
        ) from error
    about = {"command": command, "title": title, "text": text}
    run = _Run(settings, source, path, preview, should_stop or (lambda: False), about)
    yield from run.events(choose_device(device), resume)


class _Stop(Exception):
    """``should_stop`` turned true."""


class _Run:
    """One training run: what it works on, where it stands, what it has saved."""

    def __init__(
        self,
        settings: TrainSettings,
        source: Source,
        out: Path,
        preview: PreviewWish | None,
        should_stop: Callable[[], bool],
        about: dict[str, str],
    ) -> None:
        self.settings, self.source, self.out = settings, source, out
        self.preview, self.should_stop, self.about = preview, should_stop, about
        self.progress = Progress()
        self.training: tuple[Slice, ...] = ()
        self.validation: tuple[Slice, ...] = ()
        self.split_text = ""
        self._began_at = 0
        self.threshold = settings.threshold
        self._preview_due = self._state_saved = time.monotonic()
        self._image_shown: Slice | None = None

    # --- the stream -----------------------------------------------------------------------------

    def events(self, device: torch.device, resume: bool) -> Stream:
        yield None
        yield from self.source.scan(self.settings)
        self.settings = self.source.settings
        self._split()
        self.learner = Learner(self.settings, device)
        if resume:
            self.progress = load_state(state_path(self.out), self.learner)
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
                self._save()
        yield self._finished(reason)

    def _started(self, device: torch.device) -> Started:
        notes = [*self.source.notes, f"split: {self.split_text}"]
        if self.progress.epoch or self.progress.step:
            at = f"epoch {self.progress.epoch + 1}, batch {self.progress.step + 1}"
            notes.append(f"resumed at {at}")
        files = {"checkpoint": str(self.out), "state": str(state_path(self.out))}
        return Started(
            device=str(device), total=self.settings.epochs, notes=tuple(notes), files=files
        )

    def _finished(self, reason: str) -> Finished:
        p = self.progress
        summary = {"best_dice": max(p.best, 0.0), "best_epoch": p.best_epoch, "epochs": p.epoch}
        summary["new_epochs"] = p.epoch - self._began_at
        outputs = {"checkpoint": str(self.out), "state": str(state_path(self.out))}
        return Finished(reason=reason, outputs=outputs, summary=summary)

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
        return (
            f"early stop: validation Dice has not risen for {p.epoch - p.best_epoch} epochs "
            f"(best {p.best:.4f} in epoch {p.best_epoch})"
        )

    def _batches(self) -> Stream:
        p, order = self.progress, self._order(self.progress.epoch)
        steps = self._steps(len(order))
        while p.step < steps:
            batch: list[Any] = []
            for position in range(p.step * self.settings.batch, (p.step + 1) * self.settings.batch):
                if position < len(order):
                    batch.append(self._item(order[position], position))
                self._beat()
                yield None
            yield from self._learn(
                collate(batch), (p.epoch + p.step / steps) / self.settings.epochs
            )
            yield from self._show()
            self._save_now_and_then()

    def _learn(self, batch: Batch, fraction: float) -> Stream:
        p = self.progress
        part = self.learner.learn(*batch, fraction, [self.settings.seed, 4, p.epoch, p.step])
        loss = yield from _watched(part, self._beat)
        p.loss_sum += loss
        p.step += 1

    def _judge(self, start: float) -> Stream:
        p, result = self.progress, Validation()
        part = validate(self.learner, self.source, self.validation, result)
        yield from _watched(part, self._beat)
        loss = p.loss_sum / max(p.step, 1)
        p.epoch, p.step, p.loss_sum = p.epoch + 1, 0, 0.0
        p.seconds += time.monotonic() - start
        best = result.figures["dice"] > p.best or (
            self.training == self.validation and result.figures["dice"] == p.best
        )  # on its own training pixels the newer of two equals has seen more
        if best:
            p.best, p.best_epoch = result.figures["dice"], p.epoch
        p.history.append({"epoch": p.epoch, "loss": loss, **result.figures})
        self.threshold = result.threshold
        if best:
            self._save_best(result.figures)
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
        )

    # --- what is learnt from --------------------------------------------------------------------

    def _split(self) -> None:
        given = self.settings.validation, self.settings.seed, self.source.marked
        parts = split(self.source.slices, *given)
        self.training, self.validation, self.split_text = parts

    def _order(self, epoch: int) -> list[Slice]:
        """The epoch's slices in random order; a few slices come again, each time cropped anew."""
        rng = np.random.default_rng([self.settings.seed, 2, epoch])
        wanted = len(self.training)
        if self.settings.crop:
            wanted = max(wanted, MIN_CROPS)
        order: list[Slice] = []
        while len(order) < wanted:
            order += [self.training[i] for i in rng.permutation(len(self.training))]
        return order[:wanted]

    def _steps(self, count: int) -> int:
        """Batches of an epoch; a last, incomplete one is left out unless it is the only one."""
        return max(1, count // self.settings.batch)

    def _item(self, slice_: Slice, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        words = [self.settings.seed, 3, self.progress.epoch, position]
        draw = Draw(self.settings.crop, self.settings.augment, self.source.oriented)
        return draw_example(self.source.example(slice_), draw, np.random.default_rng(words))

    # --- what is shown and kept -----------------------------------------------------------------

    def _show(self, force: bool = False) -> Stream:
        wish = self.preview() if self.preview else None
        now = time.monotonic()
        if wish is None or not (force or now >= self._preview_due):
            return
        z, path = wish
        first = self.validation[0]
        count = len(self.source.pair(first.pair).view)
        z = first.z if z < 0 else min(z, count - 1)
        if wish[0] < 0 and self._image_shown != first:  # the caller does not know this image
            write_shown_image(self.source, first.pair, z, Path(path))
            self._image_shown = first
        write_preview(self.learner, self.source, first.pair, z, Path(path))
        spent = time.monotonic() - now
        self._preview_due = time.monotonic() + max(PREVIEW_SECONDS, 10 * spent)
        yield Preview(z=z, path=str(path))

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._state_saved > STATE_SECONDS:
            save_state(state_path(self.out), self.learner, self.progress)
            self._state_saved = time.monotonic()

    def _save(self) -> None:
        """The state, and the model as it is if no better one was ever validated."""
        save_state(state_path(self.out), self.learner, self.progress)
        if self.progress.best_epoch == 0:
            self._save_best({})

    def _save_best(self, found: dict[str, float]) -> None:
        save_checkpoint(self.out, self.learner.model, self._card(found))

    def _card(self, found: dict[str, float]) -> Card:
        model, settings = self.learner.model, self.settings
        tuning = model.tuning().replace(**self.learner.values(self.threshold))
        return Card(
            spec=model.spec.to_json(),
            preprocessing=settings.preprocessing,
            class_names=settings.class_names,
            class_colors=settings.class_colors,
            tuning=tuning,
            title=self.about["title"] or self.out.stem,
            text=self.about["text"],
            provenance={
                "command": self.about["command"],
                "data": self.source.describe(),
                "split": self.split_text,
                "seed": settings.seed,
                "device": str(self.learner.device),
                "epoch": self.progress.epoch,
                "versions": versions(),
                "date": datetime.now(UTC).date().isoformat(),
                "settings": settings.to_json(),
            },
            metrics={"validation": found} if found else {},
        )


def versions() -> dict[str, str]:
    """Python, torch and this package."""
    try:
        own = version("napari-attnseg")
    except PackageNotFoundError:
        own = "unknown"
    return {"python": platform.python_version(), "torch": torch.__version__, "napari-attnseg": own}


def _watched(
    part: Generator[None, None, Any], beat: Callable[[], None]
) -> Generator[None, None, Any]:
    """Pass heartbeats on and look between them whether to stop; returns the part's result."""
    try:
        while True:
            next(part)
            beat()
            yield None
    except StopIteration as end:
        return end.value
    finally:
        part.close()
