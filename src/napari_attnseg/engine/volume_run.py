"""A volume segmented slice by slice into result files: followed, stopped, gone on with later."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.control import messages as m
from napari_attnseg.engine.run import Run, trim_now_and_then
from napari_attnseg.engine.run_record import RunRecord, question_of
from napari_attnseg.io.limits import readable_bytes

if TYPE_CHECKING:
    from napari_attnseg.engine.predict import Prediction
    from napari_attnseg.engine.session import MapScale, Session

MAPS_WITH_RUN = 32
"""Slices up to which a run makes maps that cost a second pass over the attention (a third of the
time); of larger volumes they are made of the slices that somebody looks at."""
PACED = 4
"""Slices that make a pace."""


def place_of_maps(session: Session) -> MapScale:
    """Where the attention grid lies; an empty grid for models without a threshold (their maps are
    those of their levels) and for tiles."""
    from napari_attnseg.engine.session import MapScale

    if session.tiled or all(t.name != "threshold" for t in session.model.tunables):
        return MapScale((1.0, 1.0), (0.0, 0.0), (0, 0))
    return session.map_scale()


class VolumeRun(Run):
    """One ``Predict`` of axial slices, or of a 3D model."""

    def __init__(
        self,
        session: Session,
        work: m.Predict,
        stopped: Callable[[], bool],
        news: Callable[[], Iterator[m.Event]],
    ) -> None:
        self._seconds: list[float] = []
        dear = session.n_slices > MAPS_WITH_RUN and session.received_costs(work.tuning)
        self._maps = work.received and not dear
        if work.stages and work.stage_bytes > 0:
            session.keep_on_disk(Path(work.stages), work.stage_bytes)
        super().__init__(session, work, stopped, news, place_of_maps(session))
        question = question_of(work, session.card)
        self._record = RunRecord(Path(work.out), session.n_slices, question)
        self._ready = sum(self._record.has(z, self._maps) for z in self._pending.left)

    @property
    def pace(self) -> float | None:
        """Seconds per slice of those in passing (the median); ``None`` before there were a few."""
        return float(np.median(self._seconds)) if len(self._seconds) >= PACED else None

    def _close(self) -> None:
        self._record.close()
        super()._close()

    def _events(self) -> Iterator[m.Event | None]:
        """A ``SliceDone`` per slice."""
        if self._ready:
            yield m.Note(self.work.id, continuing(self._ready, self._pending.total), calm=True)
        whole = self.session.model.ndim == 3  # then slices come in layers of windows
        while self._pending:
            self._go_on()
            began = time.perf_counter()
            z, urgent = self._pending.take(self._missing if whole else None)
            heavy = False
            if not self._record.has(z, self._maps or urgent):
                answer = yield from self._answer(z, urgent)
                heavy = "encode" in answer.woken
            seconds = time.perf_counter() - began
            if heavy and not urgent:
                self._seconds.append(seconds)
            yield self._slice_done(z, seconds)
            yield from self._news()
        if text := self._left_out():
            yield m.Note(self.work.id, text, calm=True)

    def _missing(self, z: int) -> int:
        return self.session.missing(z, self.work.tuning)

    def _answer(self, z: int, urgent: bool) -> Generator[None, None, Prediction]:
        """Slice ``z`` in the files."""
        from napari_attnseg.engine.device import spare_processor

        # the slice the person waits for takes the whole machine, the others leave it smooth
        spare = contextlib.nullcontext if urgent else spare_processor
        steps = self.session.stepwise(z, self.work.tuning, live=urgent)
        answer = yield from self._in_steps(steps, spare)
        with spare():
            self._computed += bool(answer.woken)
            self._keep(z, answer)
            self._keep_maps(z, answer, self._maps or urgent)
            trim_now_and_then(self._computed)
        return answer

    def _keep_maps(self, z: int, answer: Prediction, received: bool) -> None:
        """The maps; then the slice is marked."""
        self._files.write_map("step", z, answer.step)
        if received:
            self._files.write_map("received", z, answer.received)
        self._record.mark(z, received)

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


def continuing(ready: int, total: int) -> str:
    """What the person is told when slices were finished before."""
    if ready == total:
        return f"all {total} slices were finished before with these values; nothing is computed"
    return f"{ready} of {total} slices were finished before"
