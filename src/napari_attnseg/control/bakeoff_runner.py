"""A bake-off as its dock sees it: start, stop, watch. It runs in the training lane's engine."""

from __future__ import annotations

import json
import threading
from dataclasses import fields, replace
from pathlib import Path

from psygnal import Signal

from napari_attnseg.control.bakeoff import (
    BakeOff,
    BakeOffPictures,
    BakeOffPicturesDone,
    BakeOffPlanned,
    BakeOffRow,
    BakeOffStep,
)
from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.latest import Latest
from napari_attnseg.control.messages import EngineLost, Event, Failed, Finished, Started
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.errors import InputError
from napari_attnseg.placement import file_stem


def finished_runs(out: Path, keys: tuple[str, ...], seeds: tuple[int, ...]) -> int:
    """How many of these runs lie in ``out`` from before."""
    names = [f"{key}_seed{seed}.json" for key in keys for seed in seeds]
    return sum((out / "runs" / name).is_file() for name in names)


def keys_of(contestants: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the files of the plain U-Net and of ``contestants`` (placements in words)."""
    return (file_stem(""), *map(file_stem, contestants))


class BakeOffController:
    """One bake-off at a time; pictures may be asked for while it runs.

    ``pictures`` carries the answer and its table (see ``BakeOffPicturesDone``).
    """

    started = Signal(object)  # Started
    planned = Signal(object)  # BakeOffPlanned
    step = Signal(object)  # BakeOffStep
    row = Signal(object)  # BakeOffRow
    finished = Signal(object)  # Finished
    failed = Signal(object)  # Failed
    engine_lost = Signal(str)
    busy_changed = Signal(bool)
    pictures = Signal(object, dict)
    asking_changed = Signal(bool)

    def __init__(self, client: EngineClient, scratch: Scratch) -> None:
        self.client, self.scratch = client, scratch
        self.request: BakeOff | None = None
        self._id = 0
        self._asked = Latest(client)
        self._lock = threading.RLock()
        self._unsubscribe = client.subscribe(self._on_event)

    @property
    def busy(self) -> bool:
        """Whether a bake-off runs."""
        return self._id != 0

    @property
    def asking(self) -> bool:
        """Whether pictures are on their way."""
        return self._asked.flying is not None

    def start(self, wish: BakeOff) -> int:
        """Run a bake-off, or go on with one; ``InputError`` while another runs."""
        with self._lock:
            if self.busy:
                raise InputError("a bake-off is running; press Cancel before starting another")
            self._id = number = self.client.new_id()
            self.request = replace(wish, id=number)
        self.busy_changed.emit(True)
        self.client.send(self.request)
        return number

    def stop(self) -> None:
        """End it; finished runs are kept and ``finished`` follows."""
        if self._id:
            self.client.cancel(self._id)

    def ask_pictures(self, wish: BakeOff, index: int) -> None:
        """Ask for masks and maps on test image ``index``; the newest question wins."""
        given = {f.name: getattr(wish, f.name) for f in fields(BakeOff)}
        files = str(self.scratch.folder("bakeoff"))
        self._asked.ask(BakeOffPictures(**{**given, "id": 0}, index=index, files=files))
        self.asking_changed.emit(True)

    def close(self) -> None:
        """Stop listening; the owner closes client and scratch."""
        self._unsubscribe()

    def _on_event(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, EngineLost):
                self._on_lost(event)
            elif self._id and event.id == self._id:
                self._on_own(event)
            elif self._asked.holds(event.id):
                self._on_pictures(event)

    def _on_lost(self, event: EngineLost) -> None:
        mine = self._id in event.lost
        asked = self._asked.flying is not None
        self._asked.drop()
        if mine:
            self._end()
        if asked:
            self.asking_changed.emit(False)
        if mine or asked:
            self.engine_lost.emit(event.cause)

    def _on_own(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started.emit(event)
        elif isinstance(event, BakeOffPlanned):
            self.planned.emit(event)
        elif isinstance(event, BakeOffRow):
            self.row.emit(event)
        elif isinstance(event, BakeOffStep):
            self.step.emit(event)
        elif isinstance(event, (Finished, Failed)):
            self._end()
            (self.finished if isinstance(event, Finished) else self.failed).emit(event)

    def _on_pictures(self, event: Event) -> None:
        if not isinstance(event, (BakeOffPicturesDone, Failed)):
            return
        found = {}
        if isinstance(event, BakeOffPicturesDone):  # read before the next question overwrites it
            found = json.loads(Path(event.path).read_text())
        self._asked.answered(event.id)
        self.asking_changed.emit(self.asking)
        if isinstance(event, Failed):
            self.failed.emit(event)
        elif not self.asking:
            self.pictures.emit(event, found)

    def _end(self) -> None:
        self._id = 0
        self.busy_changed.emit(False)
