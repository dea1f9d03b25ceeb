"""The engine process from outside: frames, newest wins, cancel, death, the parent's death."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from napari_attnseg.control.checks import Overfit
from napari_attnseg.control.child import ChildClient, explain_exit
from napari_attnseg.control.frames import write_frame
from napari_attnseg.control.messages import (
    AttentionRow,
    Described,
    Diagnose,
    EngineLost,
    Event,
    Finished,
    Predict,
    Request,
    Retune,
    Retuned,
    RowDone,
    SliceDone,
    Started,
    Train,
    encode,
)
from napari_attnseg.control.questions import Cka, StepDone
from napari_attnseg.settings import Tuning

E = TypeVar("E", bound=Event)
COMMAND = (sys.executable, str(Path(__file__).with_name("worker_host.py")))
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Listener:
    """Events of a client in order of arrival."""

    def __init__(self, client: ChildClient) -> None:
        self.client = client
        self.events: queue.Queue[Event] = queue.Queue()
        client.subscribe(self.events.put)

    def wait(self, kind: type[E], seconds: float = 10.0) -> E:
        """The next event of this kind; those before it are passed over."""
        end = time.monotonic() + seconds
        while True:
            event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            if isinstance(event, kind):
                return event

    def rest(self, seconds: float = 0.3) -> list[Event]:
        """Whatever comes until it is quiet for so long."""
        found = []
        while True:
            try:
                found.append(self.events.get(timeout=seconds))
            except queue.Empty:
                return found


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[ChildClient] = []

    def make(lane: str = "live") -> Listener:
        client = ChildClient(lane, warm=False, command=COMMAND)  # type: ignore[arg-type]
        made.append(client)
        return Listener(client)

    yield make
    for client in made:
        client.close()


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends within so many seconds."""
    try:
        process = psutil.Process(pid)
        process.wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_nothing_runs_before_the_first_request(listen: Callable[..., Listener]) -> None:
    assert listen().client.pid is None


def test_work_comes_back_in_order(listen: Callable[..., Listener]) -> None:
    talk = listen()
    number = talk.client.send(Predict(tuning=Tuning(0.0), order=(2, 0, 1)))
    events = [talk.events.get(timeout=10) for _ in range(5)]
    assert events == [
        Started(number, total=3),
        SliceDone(number, 2),
        SliceDone(number, 0),
        SliceDone(number, 1),
        Finished(number),
    ]


def test_prints_of_libraries_never_break_frames(listen: Callable[..., Listener]) -> None:
    talk = listen()
    for _ in range(5):
        number = talk.client.send(AttentionRow())
        assert talk.wait(RowDone).id == number
    assert talk.rest() == []


def test_newest_wins(listen: Callable[..., Listener]) -> None:
    talk = listen()
    talk.client.send(Retune(tuning=Tuning(0.0)))
    talk.wait(Retuned)
    numbers = [talk.client.send(Retune(z=z, tuning=Tuning(0.1))) for z in range(60)]
    answered = [e.id for e in talk.rest(0.5)]
    assert answered[-1] == numbers[-1]
    assert len(answered) <= 3


def test_live_questions_are_answered_while_long_work_runs(listen: Callable[..., Listener]) -> None:
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(0.05), order=tuple(range(200))))
    talk.wait(SliceDone)
    began = time.monotonic()
    talk.client.send(Retune(z=7, tuning=Tuning(0.0)))
    assert talk.wait(Retuned).z == 7
    assert time.monotonic() - began < 0.5
    talk.client.cancel(run)
    assert talk.wait(Finished) == Finished(run, "cancelled")


def test_cancel_that_is_heard_keeps_the_process(listen: Callable[..., Listener]) -> None:
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(0.05), order=tuple(range(200))))
    talk.wait(SliceDone)
    pid = talk.client.pid
    began = time.monotonic()
    talk.client.cancel(run)
    assert talk.wait(Finished).reason == "cancelled"
    assert time.monotonic() - began < 0.5
    assert talk.client.pid == pid


def test_cancel_that_is_not_heard_ends_the_process_in_a_second(
    listen: Callable[..., Listener],
) -> None:
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(30.0), order=(0, 1)))
    talk.wait(Started)
    time.sleep(0.1)
    waiting = talk.client.send(Retune(z=3, tuning=Tuning(0.0)))
    pid = talk.client.pid
    assert pid is not None
    began = time.monotonic()
    talk.client.cancel(run)
    talk.client.cancel(run)  # an impatient second click changes nothing
    finished = talk.wait(Finished)
    assert time.monotonic() - began < 1.2
    assert (finished.id, finished.reason) == (run, "cancelled")
    assert gone(pid, 1.0)
    assert talk.wait(Retuned).id == waiting, "what waited behind is asked again"
    assert not [e for e in talk.rest() if isinstance(e, (EngineLost, Finished))]


def test_work_that_is_replaced_keeps_the_process_however_slow(
    listen: Callable[..., Listener],
) -> None:
    """A moved value replaces the run: the engine with its model and caches must live on."""
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(1.5), order=(0, 1)))
    talk.wait(Started)
    time.sleep(0.1)
    pid = talk.client.pid
    talk.client.cancel(run, now=False)
    after = talk.client.send(Predict(tuning=Tuning(0.0), order=(0,)))
    assert talk.wait(Finished) == Finished(run, "cancelled")
    assert talk.wait(Finished).id == after
    assert talk.client.pid == pid


def test_cancelled_training_may_take_its_time_to_save(
    listen: Callable[..., Listener], tmp_path: Path
) -> None:
    talk = listen("training")
    out = tmp_path / "best"
    run = talk.client.send(Train(out=str(out)))
    talk.wait(Started)
    talk.client.cancel(run)
    assert talk.wait(Finished).summary == {}
    assert out.read_text() == "saved"


def test_closing_while_training_does_not_wait_but_saves(
    listen: Callable[..., Listener], tmp_path: Path
) -> None:
    talk = listen("training")
    out = tmp_path / "best"
    talk.client.send(Train(out=str(out)))
    talk.wait(Started)
    pid = talk.client.pid
    assert pid is not None
    began = time.monotonic()
    talk.client.close()
    assert time.monotonic() - began < 1.0
    assert gone(pid, 5.0)
    assert out.read_text() == "saved"


@posix
def test_lanes_differ_in_priority(listen: Callable[..., Listener]) -> None:
    live, training = listen("live"), listen("training")
    live.client.send(Diagnose())
    training.client.send(Diagnose())
    before = os.nice(0)
    assert live.wait(Described).data["nice"] == before
    assert training.wait(Described).data["nice"] == min(before + 10, 19)


@posix
def test_a_killed_engine_is_named_and_the_next_request_starts_another(
    listen: Callable[..., Listener],
) -> None:
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(0.05), order=tuple(range(200))))
    talk.wait(SliceDone)
    pid = talk.client.pid
    assert pid is not None
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    lost = talk.wait(EngineLost)
    assert time.monotonic() - began < 1.0
    assert "SIGKILL" in lost.cause
    assert "memory" in lost.cause
    assert lost.lost == (run,)
    again = talk.client.send(Predict(tuning=Tuning(0.0), order=(1,)))
    assert talk.wait(Finished).id == again
    assert talk.client.pid != pid
    assert talk.client.generation == 2


@posix
def test_an_engine_killed_while_idle_costs_nothing(listen: Callable[..., Listener]) -> None:
    talk = listen()
    for _ in range(5):
        number = talk.client.send(Retune(tuning=Tuning(0.0)))
        assert talk.wait(Retuned).id == number
        pid = talk.client.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert gone(pid, 2.0)  # the next request may meet the broken pipe
    assert all(e.lost == () for e in talk.rest() if isinstance(e, EngineLost))


@posix
def test_a_crash_in_a_library_is_named(listen: Callable[..., Listener]) -> None:
    talk = listen()
    talk.client.send(Predict(checkpoint="abort", tuning=Tuning(0.0)))
    assert "aborted inside a native library" in talk.wait(EngineLost).cause


@posix
def test_cancelling_work_whose_engine_died_is_finished(listen: Callable[..., Listener]) -> None:
    talk = listen()
    run = talk.client.send(Predict(tuning=Tuning(30.0), order=(0,)))
    talk.wait(Started)
    pid = talk.client.pid
    assert pid is not None
    talk.client.cancel(run)
    os.kill(pid, signal.SIGKILL)
    assert talk.wait(Finished).reason == "cancelled"


def test_a_broken_start_says_what_python_said() -> None:
    client = ChildClient(warm=False, command=(sys.executable, "-c", "raise RuntimeError('no go')"))
    talk = Listener(client)
    try:
        client.send(Diagnose())
        lost = talk.wait(EngineLost)
    finally:
        client.close()
    assert "RuntimeError: no go" in lost.cause


def test_a_listeners_error_does_not_stop_the_reading(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: seen.append(what[1]))
    talk = listen()

    def grumble(event: Event) -> None:
        raise ValueError("listener")

    talk.client.subscribe(grumble)
    talk.client.send(Predict(tuning=Tuning(0.0), order=(0,)))
    talk.wait(Finished)
    time.sleep(0.05)
    assert [str(e) for e in seen] == ["listener"] * 3


def test_dispatch_gets_every_event_as_a_call(listen: Callable[..., Listener]) -> None:
    calls: queue.Queue[Callable[[], None]] = queue.Queue()
    client = ChildClient(dispatch=calls.put, warm=False, command=COMMAND)
    seen: list[Event] = []
    client.subscribe(seen.append)
    try:
        number = client.send(Retune(tuning=Tuning(0.0)))
        call = calls.get(timeout=10)
        assert seen == [], "nothing is told outside the dispatcher's thread"
        call()
        assert seen == [Retuned(number)]
    finally:
        client.close()


@pytest.mark.parametrize("busy", [False, True])
def test_the_engine_ends_with_its_parent(busy: bool) -> None:
    """The parent's death is the end of the pipe; a step that hears nothing is cut off."""
    engine = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    if busy:
        write_frame(engine.stdin, encode(Predict(1, tuning=Tuning(60.0))))
        assert engine.stdout.read(4)  # Started: the next step sleeps
        time.sleep(0.3)
    engine.stdin.close()
    try:
        assert engine.wait(5.0) == (3 if busy else 0)
    finally:
        engine.kill()
        engine.wait()
        engine.stdout.close()


@posix
def test_a_killed_parent_leaves_no_engine() -> None:
    code = (
        "import sys, time\n"
        "from napari_attnseg.control.child import ChildClient\n"
        f"client = ChildClient(warm=False, command={COMMAND!r})\n"
        "client.start(); print(client.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid, 5.0)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (-9, "SIGKILL"),
        (-11, "segmentation fault"),
        (-7 if sys.platform == "linux" else -10, "disk full"),
        (-2, "SIGINT"),
        (-99, "signal 99"),
        (1, "code 1: the last line"),
        (None, "ended unexpectedly: the last line"),
    ],
)
@posix
def test_ends_are_explained(code: int | None, word: str) -> None:
    assert word in explain_exit(code, "first\nthe last line\n\n")


@pytest.mark.parametrize("kind", [Cka, Overfit])
def test_every_long_work_can_be_cancelled_on_its_way(
    listen: Callable[..., Listener], kind: type[Request]
) -> None:
    talk = listen("training")
    number = talk.client.send(kind())
    talk.wait(StepDone)
    talk.client.cancel(number)
    assert talk.wait(Finished) == Finished(number, "cancelled")


@pytest.mark.parametrize("kind", [Cka, Overfit])
def test_every_long_work_is_lost_with_its_engine(
    listen: Callable[..., Listener], kind: Callable[..., Request]
) -> None:
    talk = listen("training")
    number = talk.client.send(kind(device="abort"))
    assert talk.wait(EngineLost).lost == (number,)
