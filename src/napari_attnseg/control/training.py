"""The training lane as the Train dock sees it: start, stop, resume, watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from psygnal import Signal

from napari_attnseg.control.checks import Overfit, OverfitDone, OverfitStep
from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.handover import Cargo, Handover, Labelled, NewestSaved, Pixels
from napari_attnseg.control.latest import Latest
from napari_attnseg.control.messages import (
    EngineLost,
    EpochDone,
    Event,
    Failed,
    Finished,
    ImageRef,
    Note,
    Preview,
    SetPreview,
    Started,
    Train,
)
from napari_attnseg.control.questions import Weigh, Weighed
from napari_attnseg.control.scratch import Scratch, read_copy, save_image
from napari_attnseg.errors import InputError
from napari_attnseg.settings import TrainSettings

Dispatch = Callable[[Callable[[], None]], None]
T = TypeVar("T")
_RUNNING = "a training is running; press Stop before starting another"


class TrainingController:
    """One training at a time; events of an older one are dropped.

    ``preview`` carries the event and a copy of the probability (Y,X) float32.
    """

    started = Signal(object)  # Started
    epoch_done = Signal(object)  # EpochDone
    preview = Signal(object, object)  # Preview, probability (Y,X)
    note = Signal(str)
    finished = Signal(object)  # Finished
    failed = Signal(object)  # Failed
    engine_lost = Signal(str)
    busy_changed = Signal(bool)
    overfit_step = Signal(object)  # OverfitStep
    overfit_done = Signal(object)  # OverfitDone
    weighed = Signal(object, object)  # Weigh; Weighed, or Failed for options that make no model

    def __init__(
        self, client: EngineClient, scratch: Scratch, dispatch: Dispatch | None = None
    ) -> None:
        self.client = client
        self.scratch = scratch
        self.request: Train | None = None
        self._id = 0
        self.checking = False
        self._labels = ""
        self._weigh = Latest(client)
        to_window = dispatch or (lambda call: call())
        self._handover = Handover(scratch, to_window)
        self._strokes = NewestSaved(
            scratch, lambda error: to_window(lambda: self.note.emit(str(error)))
        )
        self._lock = threading.RLock()
        self._unsubscribe = client.subscribe(self._on_event)

    @property
    def busy(self) -> bool:
        """Whether a training runs, or its image is on its way."""
        return self._id != 0 or self._handover.busy

    @property
    def can_resume(self) -> bool:
        """Whether the last training left a state to go on from."""
        out = self.request.out if self.request else ""
        return bool(out) and not self.busy and Path(f"{out}.state.safetensors").is_file()

    def open_image(
        self,
        array: Any,
        rgb: bool = False,
        flips: tuple[bool, bool, bool] = (False, False, False),
        spacing: tuple[float, ...] = (),
    ) -> ImageRef:
        """Hand over an image in view order for training from layers."""
        return save_image(self.scratch, array, rgb, flips, spacing)

    def start(
        self,
        settings: TrainSettings,
        out: str | Path,
        *,
        images: str | Path = "",
        masks: str | Path = "",
        device: str = "auto",
        resume: bool = False,
    ) -> int:
        """Train from a folder of images and a folder of masks."""
        return self._start(
            Train(
                settings=settings,
                images=str(images),
                masks=str(masks),
                out=str(out),
                scratch=str(self.scratch.path),
                device=device,
                resume=resume,
            )
        )

    def start_layers(
        self,
        settings: TrainSettings,
        out: str | Path,
        image: ImageRef | Pixels,
        labels: Any,
        *,
        device: str = "auto",
        preview_z: int = 0,
        resume: bool = False,
    ) -> int:
        """Train from one image and its labels (Z,Y,X); see ``Train`` for sparse strokes.

        Returns the number of the request, 0 while the image is on its way.
        """
        wish = Train(
            settings=settings,
            out=str(out),
            scratch=str(self.scratch.path),
            device=device,
            preview_z=preview_z,
            resume=resume,
        )

        def begin(found: tuple[ImageRef | None, str]) -> None:
            with self._lock:
                self._labels = found[1]
                self.scratch.hold("training", found[0].path if found[0] else "")
                self._start(replace(wish, image=found[0], labels=found[1]))

        cargo = Labelled(image, labels, f"train_labels_{self.client.new_id()}")
        self._bring(cargo, False, begin)
        return self._id

    def check(
        self,
        settings: TrainSettings,
        *,
        images: str | Path = "",
        masks: str | Path = "",
        image: ImageRef | Pixels | None = None,
        labels: Any = None,
        device: str = "auto",
    ) -> int:
        """Whether a fresh model with these settings learns one image by heart; the data as in
        :meth:`start` or :meth:`start_layers`. ``overfit_done`` and ``finished`` follow."""
        wish = Overfit(0, settings, images=str(images), masks=str(masks), device=device)
        if labels is None:
            return self._start(wish)

        def begin(found: tuple[ImageRef | None, str]) -> None:
            self._start(replace(wish, image=found[0], labels=found[1]))

        self._bring(Labelled(image, labels, "check_labels"), True, begin)
        return self._id

    def stop(self) -> None:
        """End the training; the best model and the state to resume from are kept."""
        if self._handover.drop():
            self._told(False, Finished(0, "cancelled"))
        elif self._id:
            self.client.cancel(self._id)

    def resume(self) -> int:
        """Go on where the last training stopped (bit-exactly on CPU)."""
        if self.request is None:
            raise InputError("there is no training to resume; press Train to start one")
        return self._start(replace(self.request, id=0, resume=True))

    def weigh(
        self, model: str, options: Mapping[str, Any], in_channels: int, classes: int, side: int
    ) -> None:
        """Ask what a model costs on a square of ``side`` pixels; ``weighed`` follows."""
        size = (side, side)
        self._weigh.ask(Weigh(0, model, dict(options), in_channels, classes, size))

    def set_preview(self, z: int) -> None:
        """The slice that the person looks at: previews show this one."""
        if self._id:
            self.client.send(SetPreview(z=z))

    def update_labels(self, labels: Any) -> None:
        """New strokes for the running training: they count from its next epoch on."""
        with self._lock:
            if self._labels:
                self._strokes.put(labels, Path(self._labels).stem)

    def close(self) -> None:
        """Stop listening; the owner closes client and scratch."""
        self._handover.drop()
        self._unsubscribe()

    def _bring(self, cargo: Cargo[T], checking: bool, then: Callable[[T], object]) -> None:
        if self.busy:
            raise InputError(_RUNNING)
        self.checking = checking
        self._handover.bring(cargo, then, self._told)

    def _told(self, on: bool, ended: Finished | Failed | None = None) -> None:
        """An image set out, or its way ended."""
        if not self._id:
            self.busy_changed.emit(on)
        if ended is not None:
            (self.finished if isinstance(ended, Finished) else self.failed).emit(ended)

    def _start(self, request: Train | Overfit) -> int:
        with self._lock:
            if self.busy:
                raise InputError(_RUNNING)
            self._id = number = self.client.new_id()
            sent = replace(request, id=number)
            self.checking = isinstance(sent, Overfit)
            if isinstance(sent, Train):
                self.request = sent
            self.busy_changed.emit(True)
        self.client.send(sent)
        return number

    def _end(self) -> None:
        self._id = 0
        self.busy_changed.emit(False)

    def _on_event(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, EngineLost):
                self._weigh.drop()
                if self._id and self._id in event.lost:
                    self._end()
                self.engine_lost.emit(event.cause)
            elif self._id and event.id == self._id:
                self._on_training(event)
            elif self._weigh.holds(event.id) and isinstance(event, (Weighed, Failed)):
                self.weighed.emit(self._weigh.answered(event.id), event)

    def _on_training(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started.emit(event)
            for text in event.notes:
                self.note.emit(text)
        elif isinstance(event, EpochDone):
            self.epoch_done.emit(event)
        elif isinstance(event, Preview):
            probability = read_copy(event.path)
            if probability is not None:
                self.preview.emit(event, probability)
        elif isinstance(event, OverfitStep):
            self.overfit_step.emit(event)
        elif isinstance(event, OverfitDone):
            self.overfit_done.emit(event)
        elif isinstance(event, Note):
            self.note.emit(event.text)
        elif isinstance(event, (Finished, Failed)):
            self._end()
            (self.finished if isinstance(event, Finished) else self.failed).emit(event)
