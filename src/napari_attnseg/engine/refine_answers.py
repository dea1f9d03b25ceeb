"""Answers of the refinement as files and events (see ``control.refining``)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
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
        agreement = _dice(desk, work, [shown])
        self._files_for(work, desk.session.shape[1:]).write(work.buffer, shown)
        return _refined(work, shown, began, woken, dice=agreement)

    def _steps(self, desk: RefineDesk, work: Refine) -> Iterator[Event | None]:
        began = time.perf_counter()
        iterates: list[Shown] = []
        woken: dict[str, None] = {}  # in the order of their first time
        steps = desk.steps(work)
        while True:
            with spare_processor():
                shown = next(steps, None)
            if shown is None:
                break
            iterates.append(shown)
            woken |= dict.fromkeys(desk.woken)
            yield None
        agreement = _dice(desk, work, iterates)
        _write_steps(Path(work.out), iterates)
        attention = desk.attention(work) if work.attention else None
        if attention is not None:
            save_array(Path(work.out) / "steps_attention.npy", attention)
        changed, movement = _course(iterates)
        course = {"changed": changed, "movement": movement, "dice": agreement}
        yield _refined(work, iterates[-1], began, tuple(woken), **course)

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


def _dice(desk: RefineDesk, work: Refine, iterates: list[Shown]) -> tuple[float, ...]:
    """Dice of every iterate against the reference, mean over the classes that occur."""
    reference = desk.reference(work)
    if reference is None:
        return ()
    return tuple(dice(count(s.labels, reference, desk.classes)) for s in iterates)


def _course(iterates: list[Shown]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Per iterate, pixels with another class and mean absolute change of the logits."""
    steps = list(pairwise(iterates))
    changed = [int(np.count_nonzero(a.labels != b.labels)) for a, b in steps]
    movement = [float((b.logits - a.logits).abs().mean()) for a, b in steps]
    return (0, *changed), (0.0, *movement)


def _write_steps(out: Path, iterates: list[Shown]) -> None:
    """Labels, probability and its change along the iterates, into files made for them."""
    shape = (len(iterates), *iterates[0].labels.shape)
    out.mkdir(parents=True, exist_ok=True)
    labels = open_array(out / "steps_labels.npy", shape, np.uint8)
    probability = open_array(out / "steps_probability.npy", shape, np.float32)
    change = open_array(out / "steps_change.npy", shape, np.float32)
    for t, shown in enumerate(iterates):
        labels[t], probability[t] = shown.labels, shown.probability
        change[t] = shown.probability - iterates[max(t - 1, 0)].probability


def _pixel(desk: RefineDesk, work: Affinity) -> AffinityDone:
    """The weights with which one pixel takes from its neighbours."""
    found = desk.weights(work)
    return AffinityDone(
        work.id, work.z, work.y, work.x, found.offsets, found.weights, found.residual, found.centre
    )
