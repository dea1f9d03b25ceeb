"""What every run over a volume is: told as events, stopped at any moment, heard within a slice."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_attnseg.breath import Interrupted, breathe, interruptible, settled
from napari_attnseg.control import messages as m
from napari_attnseg.control.order import Pending
from napari_attnseg.engine.results import ResultFiles

if TYPE_CHECKING:
    from napari_attnseg.engine.session import MapScale, Session

Y = TypeVar("Y")
R = TypeVar("R")
TRIM_EVERY = 4
"""Computed slices between two returns of freed memory to the system (a few ms each)."""


class Run(ABC):
    """One ``Predict`` at work. ``stopped()``: whether to end; ``news()``: what to tell between
    two slices. ``place``: where the attention grid of its maps lies."""

    def __init__(
        self,
        session: Session,
        work: m.Predict,
        stopped: Callable[[], bool],
        news: Callable[[], Iterator[m.Event]],
        place: MapScale,
    ) -> None:
        self.session, self.work = session, work
        self._stopped, self._news, self._place = stopped, news, place
        self._pending = Pending(work.order)
        self._done = self._computed = self._ready = 0
        self._files = ResultFiles(Path(work.out), session.shape, place.grid)

    def reorder(self, z: int, axis: int) -> None:
        """The person looks at slice ``z`` along view axis ``axis`` now."""
        self._pending.reorder(z, axis)

    def events(self) -> Iterator[m.Event | None]:
        """``Started``, what is done, ``Finished``; ``None`` between two tiles."""
        try:
            yield self._started()
            yield from self._events()
            yield self._finished("done")
        except Interrupted:
            yield self._finished("cancelled")
        finally:
            settled(self.work.id)
            self._close()

    @abstractmethod
    def _events(self) -> Iterator[m.Event | None]:
        """What is told between the beginning and the end; ``Interrupted`` when it is stopped."""

    def _close(self) -> None:
        self._files.close()

    def _go_on(self) -> None:
        """Raise ``Interrupted`` when the run was stopped."""
        if self._stopped():
            raise Interrupted

    def _in_steps(
        self, steps: Generator[Y, None, R], spare: Callable[[], Any]
    ) -> Generator[Y, None, R]:
        """What ``steps`` yield and return. They may be stopped within a step and between two."""
        with contextlib.closing(steps):
            while True:
                with spare(), breathing(self.work.id):
                    try:
                        step = next(steps)
                    except StopIteration as end:
                        return end.value  # type: ignore[no-any-return]
                yield step
                self._go_on()

    def _slice_done(self, z: int, seconds: float) -> m.SliceDone:
        self._done += 1
        return m.SliceDone(self.work.id, z, self._done, self._pending.total, seconds)

    def _keep(self, z: int, answer: Any) -> None:
        """Labels and probability of slice ``z`` into the files."""
        self._files.labels.write(z, answer.labels)
        self._files.probability.write(z, answer.probability)

    def _started(self) -> m.Started:
        return m.Started(
            self.work.id,
            str(self.session.device),
            self._pending.total,
            self.session.notes,
            self._files.files,
            self._place.grid,
            self._place.scale[0],
            self._place.scale,
            self._place.offset,
            self._ready,
        )

    def _finished(self, reason: str) -> m.Finished:
        summary: dict[str, Any] = {"done": self._done, "kept": asdict(self.session.kept())}
        if reason == "done":
            summary |= self._summary()
        return m.Finished(self.work.id, reason, self._files.files, summary)

    def _summary(self) -> dict[str, Any]:
        """Of a run that came to its end: slices ``computed`` (others were known), provenance."""
        provenance = self.session.provenance(self.work.tuning)
        return {"computed": self._computed, "provenance": provenance}


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


def trim_now_and_then(computed: int) -> None:
    """After every :data:`TRIM_EVERY` computed slices."""
    from napari_attnseg.engine.device import trim_heap

    if computed % TRIM_EVERY == 0:
        trim_heap()
