"""Answers of the refinement as files and events (see ``control.refining``)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.control.message_base import Event
from napari_attnseg.control.refining import Affinity, AffinityDone, Refine, Refined
from napari_attnseg.engine.device import spare_processor
from napari_attnseg.engine.metrics import count, dice
from napari_attnseg.engine.opened import OpenImage
from napari_attnseg.engine.pace import LivePace
from napari_attnseg.engine.refine_desk import RefineDesk, Shown
from napari_attnseg.engine.results import open_array, save_array


class RefinedFiles:
    """Two buffers for live answers: one is read while the other is written."""

    def __init__(self, out: Path, shape: tuple[int, int]) -> None:
        self.labels = open_array(out / "refined_labels.npy", (2, *shape), np.uint8)
        self.probability = open_array(out / "refined_probability.npy", (2, *shape), np.float32)

    def write(self, buffer: int, shown: Shown) -> None:
        """Put an answer into a buffer."""
        self.labels[buffer], self.probability[buffer] = shown.labels, shown.probability


class Refiner:
    """Serves the requests of the refinement; keeps guidance for one model at a time."""

    def __init__(self) -> None:
        self._desk: RefineDesk | None = None
        self._files: tuple[str, RefinedFiles] | None = None
        self._pace = LivePace()

    def events(self, session: OpenImage, work: Refine | Affinity) -> Iterator[Event | None]:
        """The answer; ``None`` where another question may be asked before it goes on. Raises as
        :class:`RefineDesk` does."""
        if self._desk is None or self._desk.session is not session:
            self._desk = RefineDesk(session)
        if isinstance(work, Affinity):
            yield _pixel(self._desk, work)
        elif work.steps:
            yield from self._steps(self._desk, work)
        else:
            about = (work.checkpoint, work.device, work.image, work.z, work.coarse)
            with self._pace.answering(about):
                answer = self._live(self._desk, work)
            yield answer

    def _live(self, desk: RefineDesk, work: Refine) -> Refined:
        began = time.perf_counter()
        shown = desk.show(work)
        woken = desk.woken
        agreement = _dice(desk, work, shown)
        self._files_for(work, desk.session.shape[1:]).write(work.buffer, shown)
        return _refined(work, shown, began, woken, dice=agreement)

    def _steps(self, desk: RefineDesk, work: Refine) -> Iterator[Event | None]:
        """Each iterate is written as it comes: of a large slice two lie in memory, not all."""
        began = time.perf_counter()
        woken: dict[str, None] = {}  # in the order of their first time
        course = Course(Path(work.out), work.iterations + 1, desk.reference(work), desk.classes)
        steps = desk.steps(work)
        while True:
            with spare_processor():
                shown = next(steps, None)
                if shown is None:
                    break
                course.add(shown)
            woken |= dict.fromkeys(desk.woken)
            yield None
        attention = desk.attention(work) if work.attention else None
        if attention is not None:
            save_array(Path(work.out) / "steps_attention.npy", attention)
        assert course.last is not None
        yield _refined(work, course.last, began, tuple(woken), **course.told)

    def _files_for(self, work: Refine, shape: tuple[int, int]) -> RefinedFiles:
        key = f"{work.out}:{shape}"
        if self._files is None or self._files[0] != key:
            self._files = key, RefinedFiles(Path(work.out), shape)
        return self._files[1]


def _refined(
    work: Refine, shown: Shown, began: float, woken: tuple[str, ...], **course: Any
) -> Refined:
    return Refined(
        work.id,
        work.z,
        work.buffer,
        work.iterations,
        area=int(np.count_nonzero(shown.labels)),
        anchored=shown.anchored,
        seconds=time.perf_counter() - began,
        woken=woken,
        generation=work.generation,
        **course,
    )


def _dice(desk: RefineDesk, work: Refine, shown: Shown) -> tuple[float, ...]:
    """Dice against the reference, mean over the classes that occur; empty without one."""
    reference = desk.reference(work)
    if reference is None:
        return ()
    return (dice(count(shown.labels, reference, desk.classes)),)


class Course:
    """``count`` iterates on their way into files made in ``out``, and a figure of each: pixels
    with another class, mean absolute change of the logits, Dice where there is a reference."""

    def __init__(self, out: Path, count: int, reference: np.ndarray | None, classes: int) -> None:
        self._out, self._count, self._reference, self._classes = out, count, reference, classes
        self._files: dict[str, np.memmap] = {}
        self._changed: list[int] = []
        self._movement: list[float] = []
        self._dice: list[float] = []
        self.last: Shown | None = None

    @property
    def told(self) -> dict[str, tuple[Any, ...]]:
        """The figures, as the event takes them."""
        changed, movement, agreement = self._changed, self._movement, self._dice
        return {"changed": (*changed,), "movement": (*movement,), "dice": (*agreement,)}

    def add(self, shown: Shown) -> None:
        """The next iterate."""
        t, before = len(self._changed), self.last or shown
        self._changed.append(int(np.count_nonzero(before.labels != shown.labels)))
        self._movement.append(float((shown.logits - before.logits).abs().mean()))
        if self._reference is not None:
            self._dice.append(dice(count(shown.labels, self._reference, self._classes)))
        files = self._files or self._open(shown.labels.shape)
        files["labels"][t], files["probability"][t] = shown.labels, shown.probability
        files["change"][t] = shown.probability - before.probability
        self.last = shown

    def _open(self, shape: tuple[int, ...]) -> dict[str, np.memmap]:
        self._out.mkdir(parents=True, exist_ok=True)
        kinds = {"labels": np.uint8, "probability": np.float32, "change": np.float32}
        for name, kind in kinds.items():
            path = self._out / f"steps_{name}.npy"
            self._files[name] = open_array(path, (self._count, *shape), kind)
        return self._files


def _pixel(desk: RefineDesk, work: Affinity) -> AffinityDone:
    """The weights with which one pixel takes from its neighbours."""
    found = desk.weights(work)
    return AffinityDone(
        work.id, work.z, work.y, work.x, found.offsets, found.weights, found.residual, found.centre
    )
