"""CKA as its dock sees it: start, stop, watch. It runs in the training lane's engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from psygnal import Signal

from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.handover import Handover, Pixels
from napari_attnseg.control.messages import EngineLost, Event, Failed, Finished, ImageRef, Started
from napari_attnseg.control.questions import Cka, CkaDone, StepDone
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.errors import InputError

Dispatch = Callable[[Callable[[], None]], None]


class CkaController:
    """One comparison at a time.

    ``done`` carries the table (``layers_a``, ``layers_b``, ``values`` with ``None`` where a layer
    does not vary) and the path of its picture.
    """

    started = Signal(object)  # Started
    step = Signal(object)  # StepDone
    done = Signal(dict, str)
    finished = Signal(object)  # Finished
    failed = Signal(object)  # Failed
    engine_lost = Signal(str)
    busy_changed = Signal(bool)

    def __init__(
        self, client: EngineClient, scratch: Scratch, dispatch: Dispatch | None = None
    ) -> None:
        self.client, self.scratch = client, scratch
        self.table = ""
        self.picture = ""
        self._id = 0
        self._handover = Handover(scratch, dispatch or (lambda call: call()))
        self._lock = threading.RLock()
        self._unsubscribe = client.subscribe(self._on_event)

    @property
    def busy(self) -> bool:
        """Whether a comparison runs, or its image is on its way."""
        return self._id != 0 or self._handover.busy

    def start(
        self,
        model_a: str,
        model_b: str = "",
        *,
        image: ImageRef | Pixels | None = None,
        images: str = "",
        limit: int = 64,
        device: str = "auto",
    ) -> None:
        """Compare over an image layer, or a folder; ``InputError`` when a comparison runs."""
        if self.busy:
            raise InputError("a comparison is running; press Cancel before starting another")
        if not model_a or (image is None and not images):
            raise InputError("got no model or no images, expected both; choose them first")
        if isinstance(image, Pixels):
            again = partial(self.start, model_a, model_b, limit=limit, device=device)
            self._handover.bring(image, lambda ref: again(image=ref), self._told)
            return
        out = str(self.scratch.folder("cka"))
        wish = Cka(0, model_a, model_b, images, image, out, limit=limit, device=device)
        with self._lock:
            self._id = self.client.new_id()
        self.busy_changed.emit(True)
        self.client.send(replace(wish, id=self._id))

    def stop(self) -> None:
        """End the comparison; ``finished`` follows."""
        if self._handover.drop():
            self._told(False, Finished(0, "cancelled"))
        elif self._id:
            self.client.cancel(self._id)

    def close(self) -> None:
        """Stop listening; the owner closes client and scratch."""
        self._handover.drop()
        self._unsubscribe()

    def _told(self, on: bool, ended: Finished | Failed | None = None) -> None:
        """An image set out, or its way ended."""
        if not self._id:
            self.busy_changed.emit(on)
        if ended is not None:
            (self.finished if isinstance(ended, Finished) else self.failed).emit(ended)

    def _on_event(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, EngineLost):
                if self._id in event.lost:
                    self._end()
                    self.engine_lost.emit(event.cause)
            elif self._id and event.id == self._id:
                self._on_own(event)

    def _on_own(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started.emit(event)
        elif isinstance(event, StepDone):
            self.step.emit(event)
        elif isinstance(event, CkaDone):
            self.table, self.picture = event.table, event.picture
            self.done.emit(json.loads(Path(event.table).read_text()), event.picture)
        elif isinstance(event, (Finished, Failed)):
            self._end()
            (self.finished if isinstance(event, Finished) else self.failed).emit(event)

    def _end(self) -> None:
        self._id = 0
        self.busy_changed.emit(False)
