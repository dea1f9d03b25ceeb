"""A volume segmented by slices along other axes, as a run that is followed, stopped, gone on with.

No axial slice has its answer before all slices along the other axes have theirs, so the slice that
is looked at cannot come first: steps are told while slices are computed, and at the end all axial
slices come at once, the one that is looked at first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_attnseg.control import messages as m
from napari_attnseg.control.order import Pending
from napari_attnseg.control.questions import StepDone
from napari_attnseg.control.volumes import axes_named
from napari_attnseg.engine.axes import Along, AlongAxes
from napari_attnseg.engine.device import spare_processor
from napari_attnseg.engine.results import ResultFiles
from napari_attnseg.engine.run_record import question_of

if TYPE_CHECKING:
    from napari_attnseg.engine.session import Session


class AxesRun:
    """One ``Predict`` at work whose ``axis`` is not axial (compare ``VolumeRun``)."""

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
        self._computed = self._done = 0
        out = Path(work.out)
        axes = axes_named(work.axis)
        question = question_of(work, session.card)
        self._along = AlongAxes(session, axes, work.tuning, out / "axes", question)
        self._files = ResultFiles(out, session.shape, (0, 0))

    def reorder(self, z: int, axis: int) -> None:
        """The person looks at slice ``z`` along view axis ``axis`` now."""
        self._pending.reorder(z, axis)

    def events(self) -> Iterator[m.Event | None]:
        """``Started``, a ``StepDone`` per computed slice, a ``SliceDone`` per axial slice,
        ``Finished``; ``None`` between two tiles."""
        try:
            yield from self._events()
        finally:
            self._along.close()
            self._files.close()

    def _events(self) -> Iterator[m.Event | None]:
        yield m.Started(
            self.work.id,
            str(self.session.device),
            self._pending.total,
            self.session.notes,
            self._files.files,
        )
        for step in _sparing(self._along.steps()):
            if step is not None:
                self._computed += 1
                yield StepDone(self.work.id, step.done, step.total)
                yield from self._news()
            else:
                yield None
            if self._stopped():
                yield self._finished("cancelled")
                return
        yield from self._cut()

    def _cut(self) -> Iterator[m.Event | None]:
        """The axial slices out of what is gathered."""
        while self._pending:
            if self._stopped():
                yield self._finished("cancelled")
                return
            began = time.perf_counter()
            z, _ = self._pending.take()
            labels, probability = self._along.answer(z)
            self._files.labels.write(z, labels)
            self._files.probability.write(z, probability)
            self._done += 1
            seconds = time.perf_counter() - began
            yield m.SliceDone(self.work.id, z, self._done, self._pending.total, seconds)
        yield self._finished("done")

    def _finished(self, reason: str) -> m.Finished:
        summary: dict[str, Any] = {"done": self._done, "kept": asdict(self.session.kept())}
        if reason == "done":
            summary["computed"] = self._pending.total if self._computed else 0
            told = self.session.provenance(self.work.tuning)
            summary["provenance"] = {**told, "axis": self.work.axis}
        return m.Finished(self.work.id, reason, self._files.files, summary)


def _sparing(steps: Generator[Along | None, None, None]) -> Iterator[Along | None]:
    """The same steps, each leaving the machine smooth."""
    with contextlib.closing(steps):
        while True:
            with spare_processor():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step
