"""A volume segmented by slices along other axes, as a run that is followed, stopped, gone on with.

No axial slice has its answer before all slices along the other axes have theirs, so the slice that
is looked at cannot come first: steps are told while slices are computed, and at the end all axial
slices come at once, the one that is looked at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_attnseg.control import messages as m
from napari_attnseg.control.questions import StepDone
from napari_attnseg.control.volumes import axes_named
from napari_attnseg.engine.axes import AlongAxes
from napari_attnseg.engine.device import spare_processor
from napari_attnseg.engine.predict import MapScale
from napari_attnseg.engine.run import Run, trim_now_and_then
from napari_attnseg.engine.run_record import question_of

if TYPE_CHECKING:
    from napari_attnseg.engine.session import Session

NO_MAPS = MapScale((1.0, 1.0), (0.0, 0.0), (0, 0))
"""Of slices along several axes there is no one attention to be shown."""


class AxesRun(Run):
    """One ``Predict`` whose ``axis`` is not axial."""

    def __init__(
        self,
        session: Session,
        work: m.Predict,
        stopped: Callable[[], bool],
        news: Callable[[], Iterator[m.Event]],
    ) -> None:
        axes, question = axes_named(work.axis), question_of(work, session.card)
        self._along = AlongAxes(session, axes, work.tuning, Path(work.out) / "axes", question)
        super().__init__(session, work, stopped, news, NO_MAPS)

    def _close(self) -> None:
        self._along.close()
        super()._close()

    def _events(self) -> Iterator[m.Event | None]:
        """A ``StepDone`` per computed slice, then a ``SliceDone`` per axial slice."""
        for step in self._in_steps(self._along.steps(), spare_processor):
            if step is None:
                yield None
                continue
            self._computed += 1
            trim_now_and_then(self._computed)
            yield StepDone(self.work.id, step.done, step.total)
            yield from self._news()
        while self._pending:
            self._go_on()
            began = time.perf_counter()
            z, _ = self._pending.take()
            self._keep(z, self._along.answer(z))
            yield self._slice_done(z, time.perf_counter() - began)

    def _summary(self) -> dict[str, Any]:
        told = super()._summary()
        told["provenance"] |= {"axis": self.work.axis}
        return told | {"computed": self._pending.total if self._computed else 0}
