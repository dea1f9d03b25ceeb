"""Measuring labels layers behind the window: the newest question wins, the window stays smooth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psygnal import Signal

from napari_attnseg.errors import InputError, plain_sentence
from napari_attnseg.io.agreement import Agreement, agreement, as_reference
from napari_attnseg.io.measure_space import Space
from napari_attnseg.io.measures import Measures, measure

AT_ONCE_VOXELS = 100_000
"""Masks up to this size are measured in the window's thread: less than a frame."""
TELL_SECONDS = 0.25
BREATH_SECONDS = 0.001


@dataclass(frozen=True, eq=False)
class Question:
    """What is measured. ``labels``: (Z, Y, X) ids; ``image``: their values, or ``None``;
    ``reference``: ids to compare with. ``space`` is called where the measuring is done, for it
    may read a file."""

    labels: Any
    space: Callable[[], Space]
    image: Any = None
    names: Mapping[int, str] = field(default_factory=dict)
    reference: Any = None
    tolerance: float | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """``agreements`` is ``None`` without a reference. ``note``: how that was read, in words."""

    question: Question
    measures: Measures
    agreements: tuple[Agreement, ...] | None = None
    note: str = ""


class _Outdated(Exception):
    """A newer question came, or nobody waits any more."""


class MeasureWork:
    """Answers one :class:`Question` at a time. Signals come through ``deliver``."""

    answered = Signal(object)  # Answer
    progress = Signal(float)  # share that is done
    failed = Signal(str)
    busy_changed = Signal(bool)

    def __init__(self, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._deliver = deliver
        self._wanted: Question | None = None
        self._lock = threading.Lock()  # one measuring at a time
        self._told = 0.0

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._wanted is not None

    def ask(self, question: Question) -> None:
        """Measure; an older question that is not answered yet is dropped."""
        self._want(question)
        if question.labels.size <= AT_ONCE_VOXELS:
            self._answer(question, lambda call: call())
        else:
            work = (question, self._deliver)
            threading.Thread(
                target=self._answer, args=work, name="attnseg-measure", daemon=True
            ).start()

    def stop(self) -> None:
        """No answer is wanted any more."""
        self._want(None)

    def _want(self, question: Question | None) -> None:
        was, self._wanted = self.busy, question
        if self.busy != was:
            self.busy_changed.emit(self.busy)

    def _answer(self, question: Question, deliver: Callable[[Callable[[], None]], None]) -> None:
        try:
            with self._lock:
                answer = self._measured(question, deliver)
        except _Outdated:
            return
        except Exception as error:  # a thread that dies in silence would leave the dock waiting
            sentence = plain_sentence(error) or f"the mask could not be measured ({error!r})"
            deliver(lambda: self._fail(question, sentence))
            return
        deliver(lambda: self._arrive(question, answer))

    def _measured(self, question: Question, deliver: Callable[..., None]) -> Answer:
        halves = 1 if question.reference is None else 2
        q, done = question, 0

        def pause(share: float) -> None:
            if self._wanted is not question:
                raise _Outdated
            now = time.monotonic()
            if now - self._told > TELL_SECONDS:
                self._told = now
                reached = (done + share) / halves
                deliver(lambda: self._tell(question, reached))
            time.sleep(BREATH_SECONDS)  # whoever waits for the interpreter has it now

        space = q.space()
        measures = measure(q.labels, space, q.image, q.names, parts=True, pause=pause)
        if q.reference is None:
            return Answer(q, measures)
        done = 1
        reference, note = as_reference(q.labels, q.reference)
        found = agreement(q.labels, reference, space, q.names, q.tolerance, pause)
        return Answer(q, measures, found, note)

    def _tell(self, question: Question, share: float) -> None:
        if self._wanted is question:
            self.progress.emit(share)

    def _arrive(self, question: Question, answer: Answer) -> None:
        if self._wanted is question:
            self._want(None)
            self.answered.emit(answer)

    def _fail(self, question: Question, sentence: str) -> None:
        if self._wanted is question:
            self._want(None)
            self.failed.emit(sentence)


def checked_ids(data: Any, name: str) -> Any:
    """Labels (Y, X) or (Z, Y, X) as (Z, Y, X), no copy. Raises ``InputError`` otherwise."""
    if data.ndim not in (2, 3) or not data.size:
        raise InputError(
            f"{name} has {data.ndim} axes, expected 2 (a picture) or 3 (a volume); "
            "measure one time point at a time"
        )
    return data[None] if data.ndim == 2 else data
