"""A volume segmented slice by slice into result files: followed, stopped, gone on with later."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.breath import Interrupted, breathe, interruptible, settled
from napari_attnseg.control import messages as m
from napari_attnseg.control.order import Pending
from napari_attnseg.engine.results import ResultFiles
from napari_attnseg.engine.run_record import RunRecord, question_of
from napari_attnseg.io.limits import readable_bytes

if TYPE_CHECKING:
    from napari_attnseg.engine.predict import Prediction
    from napari_attnseg.engine.session import MapScale, Session

MAPS_WITH_RUN = 32
"""Slices up to which a run makes maps that cost a second pass over the attention (a third of the
time); of larger volumes they are made of the slices that somebody looks at."""
TRIM_EVERY = 4
"""Computed slices between two returns of freed memory to the system (a few ms each)."""
PACED = 4
"""Slices that make a pace."""


def place_of_maps(session: Session) -> MapScale:
    """Where the attention grid lies; an empty grid for models without a threshold (their maps are
    those of their levels) and for tiles."""
    from napari_attnseg.engine.session import MapScale

    if session.tiled or all(t.name != "threshold" for t in session.model.tunables):
        return MapScale((1.0, 1.0), (0.0, 0.0), (0, 0))
    return session.map_scale()


class VolumeRun:
    """One ``Predict`` at work. ``stopped()``: whether to end; ``news()``: what to tell between
    two slices."""

    def __init__(
        self,
        session: Session,
        work: m.Predict,
        stopped: Callable[[], bool],
        news: Callable[[], Iterator[m.Event]],
    ) -> None:
        self.session, self.work = session, work
        self._stopped, self._news = stopped, news
        self._pending = Pending(work.order)
        self._done = self._computed = 0
        self._seconds: list[float] = []
        dear = session.n_slices > MAPS_WITH_RUN and session.received_costs(work.tuning)
        self._maps = work.received and not dear
        if work.stages and work.stage_bytes > 0:
            session.keep_on_disk(Path(work.stages), work.stage_bytes)
        out = Path(work.out)
        self._files = ResultFiles(out, session.shape, place_of_maps(session).grid)
        self._record = RunRecord(out, session.n_slices, question_of(work, session.card))

    @property
    def pace(self) -> float | None:
        """Seconds per slice of those in passing (the median); ``None`` before there were a few."""
        return float(np.median(self._seconds)) if len(self._seconds) >= PACED else None

    def reorder(self, z: int, axis: int) -> None:
        """The person looks at slice ``z`` along view axis ``axis`` now."""
        self._pending.reorder(z, axis)

    def events(self) -> Iterator[m.Event | None]:
        """``Started``, a ``SliceDone`` per slice, ``Finished``; ``None`` between two tiles."""
        try:
            yield from self._events()
        finally:
            settled(self.work.id)
            self._record.close()
            self._files.close()

    def _events(self) -> Iterator[m.Event | None]:
        yield self._started()
        ready = sum(self._record.has(z, self._maps) for z in self._pending.left)
        if ready:
            yield m.Note(self.work.id, continuing(ready, self._pending.total), calm=True)
        while self._pending:
            if self._stopped():
                yield self._finished("cancelled")
                return
            began = time.perf_counter()
            whole = self.session.model.ndim == 3  # then slices come in layers of windows
            z, urgent = self._pending.take(self._missing if whole else None)
            heavy = False
            if not self._record.has(z, self._maps or urgent):
                answer = yield from self._answer(z, urgent)
                if answer is None:
                    yield self._finished("cancelled")
                    return
                heavy = "encode" in answer.woken
            self._done += 1
            seconds = time.perf_counter() - began
            if heavy and not urgent:
                self._seconds.append(seconds)
            yield m.SliceDone(self.work.id, z, self._done, self._pending.total, seconds)
            yield from self._news()
        if text := self._left_out():
            yield m.Note(self.work.id, text, calm=True)
        yield self._finished("done")

    def _missing(self, z: int) -> int:
        return self.session.missing(z, self.work.tuning)

    def _answer(self, z: int, urgent: bool) -> Generator[None, None, Prediction | None]:
        """Slice ``z`` in the files; ``None`` when it was stopped on the way."""
        from napari_attnseg.engine.device import spare_processor

        # the slice the person waits for takes the whole machine, the others leave it smooth
        spare = contextlib.nullcontext if urgent else spare_processor
        steps = self.session.stepwise(z, self.work.tuning, live=urgent)
        answer = yield from self._in_steps(steps, spare)
        if answer is not None:
            with spare():
                self._keep(z, answer, self._maps or urgent)
        return answer

    def _keep(self, z: int, answer: Prediction, received: bool) -> None:
        from napari_attnseg.engine.device import trim_heap

        self._computed += bool(answer.woken)
        self._files.labels.write(z, answer.labels)
        self._files.probability.write(z, answer.probability)
        self._files.write_map("step", z, answer.step)
        if received:
            self._files.write_map("received", z, answer.received)
        self._record.mark(z, received)
        if self._computed % TRIM_EVERY == 0:
            trim_heap()

    def _in_steps(
        self, steps: Iterator[None], spare: Callable[[], Any]
    ) -> Generator[None, None, Any]:
        """What ``steps`` return, with heartbeats between them; ``None`` when it was stopped."""
        while True:
            with spare(), breathing(self.work.id):
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
                except Interrupted:
                    return None
            yield None
            if self._stopped():
                return None

    def _started(self) -> m.Started:
        place = place_of_maps(self.session)
        return m.Started(
            self.work.id,
            str(self.session.device),
            self._pending.total,
            self.session.notes,
            self._files.files,
            place.grid,
            place.scale[0],
            place.scale,
            place.offset,
        )

    def _finished(self, reason: str) -> m.Finished:
        summary: dict[str, Any] = {"done": self._done, "kept": asdict(self.session.kept())}
        if reason == "done":
            summary["computed"] = self._computed  # the others were known from before
            summary["provenance"] = self.session.provenance(self.work.tuning)
        return m.Finished(self.work.id, reason, self._files.files, summary)

    def _left_out(self) -> str:
        """What a moved value will compute again, in words; empty when that is nothing."""
        kept = self.session.kept()
        if self.session.model.ndim == 3:  # it keeps windows, not slices
            return ""
        if not self.work.stages or kept.slices >= self._pending.total or not self._computed:
            return ""
        why = f" ({kept.problem})" if kept.problem else ""
        return (
            f"the attention of {kept.slices} of {self._pending.total} slices is kept "
            f"({readable_bytes(kept.memory + kept.disk)}){why}; a moved value computes the others "
            "anew"
        )


@contextlib.contextmanager
def breathing(number: int) -> Iterator[None]:
    """Work ``number`` breathes before every layer of a network, so that it can be interrupted."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    hook = register_module_forward_pre_hook(lambda module, inputs: breathe())
    try:
        with interruptible(number):
            yield
    finally:
        hook.remove()


def continuing(ready: int, total: int) -> str:
    """What the person is told when slices were finished before."""
    if ready == total:
        return f"all {total} slices were finished before with these values; nothing is computed"
    return f"{ready} of {total} slices were finished before"
