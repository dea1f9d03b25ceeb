"""The order of service: live before long, newest wins, stop between two steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from napari_attnseg.control.messages import (
    AttentionRow,
    Cancel,
    Describe,
    Described,
    Event,
    Failed,
    Finished,
    Predict,
    Request,
    Retune,
    Retuned,
    RowDone,
    SliceDone,
    Stopping,
)
from napari_attnseg.engine.desk import Desk, failure
from napari_attnseg.errors import InputError


class Counting:
    """A worker that counts slices and notes what it was asked."""

    def __init__(self) -> None:
        self.stopping: set[int] = set()
        self.asked: list[Request] = []
        self.saved = False
        self.closed = False

    def handle(self, request: Request) -> Iterator[Event | None]:
        self.asked.append(request)
        if isinstance(request, Predict):
            return self.count(request)
        return self.answer(request)

    def count(self, request: Predict) -> Iterator[Event | None]:
        try:
            for z in request.order:
                yield None
                if request.id in self.stopping:
                    yield Finished(request.id, "cancelled")
                    return
                yield SliceDone(request.id, z)
            yield Finished(request.id)
        finally:
            self.saved = True

    def answer(self, request: Request) -> Iterator[Event]:
        if isinstance(request, AttentionRow):
            raise InputError("got no image, expected one; open one")
        if isinstance(request, Describe):
            raise ZeroDivisionError("division by zero")
        assert isinstance(request, Retune)
        yield Retuned(request.id, request.z)

    def stop(self, request_id: int) -> None:
        self.stopping.add(request_id)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def worker() -> Counting:
    return Counting()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def desk(worker: Counting, events: list[Event]) -> Desk:
    return Desk(worker, events.append)


def drain(desk: Desk) -> None:
    for _ in range(1000):
        if not desk.step():
            return
    raise AssertionError("the desk never came to rest")


def test_long_work_ends(desk: Desk, events: list[Event]) -> None:
    desk.submit(Predict(1, order=(4, 2)))
    assert desk.busy
    drain(desk)
    assert events == [SliceDone(1, 4), SliceDone(1, 2), Finished(1)]
    assert not desk.busy


def test_live_requests_pass_long_work(desk: Desk, events: list[Event]) -> None:
    desk.submit(Predict(1, order=tuple(range(9))))
    while SliceDone(1, 0) not in events:
        desk.step()
    desk.submit(Retune(2, z=5))
    desk.step()
    assert events[-1] == Retuned(2, 5)
    drain(desk)
    assert events[-1] == Finished(1)


def test_only_the_newest_waiting_question_is_answered(desk: Desk, events: list[Event]) -> None:
    for number in range(1, 8):
        desk.submit(Retune(number, z=number))
    drain(desk)
    assert events == [Retuned(7, 7)]


def test_second_long_request_waits_for_the_first(desk: Desk, events: list[Event]) -> None:
    desk.submit(Predict(1, order=(0,)))
    desk.submit(Predict(2, order=(0,)))
    drain(desk)
    assert [e.id for e in events] == [1, 1, 2, 2]


def test_cancel_of_running_work_stops_it_at_the_next_step(
    desk: Desk, events: list[Event], worker: Counting
) -> None:
    desk.submit(Predict(1, order=tuple(range(100))))
    while SliceDone(1, 3) not in events:
        desk.step()
    desk.submit(Cancel(9, 1))
    assert events[-1] == Stopping(1)
    drain(desk)
    assert events[-1] == Finished(1, "cancelled")
    assert SliceDone(1, 4) not in events
    assert worker.saved


def test_cancel_of_waiting_work_never_starts_it(
    desk: Desk, events: list[Event], worker: Counting
) -> None:
    desk.submit(Predict(1, order=(0,)))
    desk.submit(Retune(2))
    desk.submit(Cancel(3, 1))
    desk.submit(Cancel(4, 2))
    drain(desk)
    assert events == [Finished(1, "cancelled"), Finished(2, "cancelled")]
    assert worker.asked == []


class Pausing(Counting):
    """A worker whose answers to ``AttentionRow`` pause twice."""

    def handle(self, request: Request) -> Iterator[Event | None]:
        if not isinstance(request, AttentionRow):
            return super().handle(request)
        return iter((None, None, RowDone(request.id)))


def test_light_work_that_pauses_makes_way_for_newer_questions(events: list[Event]) -> None:
    desk = Desk(Pausing(), events.append)
    desk.submit(AttentionRow(1))
    desk.step()
    assert events == []
    assert desk.busy
    desk.submit(Predict(2, order=(0,)))
    desk.submit(Retune(3))
    drain(desk)
    ends = [(type(e).__name__, e.id) for e in events]
    assert ends == [("Retuned", 3), ("RowDone", 1), ("SliceDone", 2), ("Finished", 2)]


def test_work_that_stands_aside_is_cancelled_and_closed(events: list[Event]) -> None:
    desk = Desk(Pausing(), events.append)
    desk.submit(AttentionRow(1))
    desk.step()
    desk.submit(Cancel(9, 1))
    drain(desk)
    assert events == [Finished(1, "cancelled")]
    desk.submit(AttentionRow(2))
    desk.step()
    desk.close()
    assert not desk.busy


def test_cancel_of_something_long_gone_is_nothing(desk: Desk, events: list[Event]) -> None:
    desk.submit(Cancel(3, 77))
    drain(desk)
    assert events == []


def test_a_known_problem_is_its_own_sentence(desk: Desk, events: list[Event]) -> None:
    desk.submit(AttentionRow(5))
    drain(desk)
    (event,) = events
    assert isinstance(event, Failed)
    assert (event.id, event.kind) == (5, "InputError")
    assert event.message == "got no image, expected one; open one"
    assert "AttentionRow 5" in event.report


def test_an_unknown_problem_is_named_and_reported(desk: Desk, events: list[Event]) -> None:
    desk.submit(Describe(6))
    drain(desk)
    (event,) = events
    assert isinstance(event, Failed)
    assert event.kind == "EngineError"
    assert "division by zero" in event.message
    assert "Traceback" in event.report
    desk.submit(Retune(7))
    drain(desk)
    assert events[-1] == Retuned(7), "the desk goes on after an error"
    assert not any(isinstance(e, Described) for e in events)


def test_closing_lets_running_work_save(desk: Desk, events: list[Event], worker: Counting) -> None:
    desk.submit(Predict(1, order=tuple(range(100))))
    desk.step()
    desk.close()
    assert worker.saved
    assert worker.closed
    assert not desk.busy


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), "DeviceError", "memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "DeviceError", "smaller"),
        (OSError(28, "No space left on device", "/a/b"), "EngineError", "No space left"),
    ],
)
def test_no_memory_and_a_refusing_disk_are_sentences(
    error: Exception, kind: str, says: str
) -> None:
    told = failure(Predict(3), error)
    assert (told.id, told.kind, told.tile) == (3, kind, 0)
    assert says in told.message
    assert "developers" not in told.message
    assert type(error).__name__ in told.report
