"""Controllers on the real engine process: it is killed in the middle, and nothing is lost."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.training import TrainingController
from napari_attnseg.engine.session import Session
from napari_attnseg.settings import RECIPES, Tuning

TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Pump:
    """A main thread: runs what a client dispatches, as a window's event loop does."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Run calls until ``done``; fail after so many seconds."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "waited in vain"
            try:
                self.calls.get(timeout=0.02)()
            except queue.Empty:
                continue


@pytest.fixture
def pump() -> Pump:
    return Pump()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(tmp_path / "scratch")
    yield made
    made.close()


@pytest.fixture
def client(pump: Pump) -> Iterator[ChildClient]:
    made = ChildClient(dispatch=pump.calls.put)
    yield made
    made.close()


def volume(slices: int) -> np.ndarray:
    shape = (slices, 45, 61)
    z, y, x = np.indices(shape)
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    return (np.sin(y / 4) + np.cos(x / 5 + z) + noise).astype(np.float32)


def kill(client: ChildClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


def test_a_kill_in_the_middle_loses_nothing_that_was_finished(
    client: ChildClient, scratch: Scratch, pump: Pump, tiny_checkpoint: Path
) -> None:
    image = volume(400)
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(image)
    tuning = TUNING.replace(cut=float(np.median(session.predict(0, TUNING).probability)))
    live = LiveController(client, scratch)
    live.open_image(image)
    live.set_model(str(tiny_checkpoint), "cpu", tuning)
    done: list[int] = []
    causes: list[str] = []
    ends: list[object] = []
    live.slice_done.connect(lambda e: done.append(e.z))
    live.engine_lost.connect(causes.append)
    live.finished.connect(ends.append)
    live.run(range(400))
    pump.until(lambda: len(done) >= 5)
    kill(client)
    pump.until(lambda: bool(causes))
    assert "SIGKILL" in causes[0]
    assert not live.state.busy
    assert not ends
    assert len(done) < 400, "the kill came in the middle"
    results = live.state.results
    assert results is not None
    labels = results.array("labels")
    assert labels is not None
    for z in {done[0], done[len(done) // 2], done[-1]}:
        np.testing.assert_array_equal(labels[z], session.predict(z, tuning).labels)
    live.run([0, 1])
    pump.until(lambda: bool(ends))
    assert client.generation == 2
    tuned: list[np.ndarray] = []
    live.retuned.connect(lambda e, labels: tuned.append(labels))
    live.set_tuning(tuning.replace(threshold=0.0), z=1)
    pump.until(lambda: bool(tuned))
    expected = session.predict(1, tuning.replace(threshold=0.0)).labels
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(tuned[0], expected)


def test_a_drag_ends_with_the_last_value(
    client: ChildClient, scratch: Scratch, pump: Pump, tiny_checkpoint: Path
) -> None:
    image = volume(1)
    live = LiveController(client, scratch)
    live.open_image(image)
    live.set_model(str(tiny_checkpoint), "cpu", TUNING)
    answers: list[np.ndarray] = []
    live.retuned.connect(lambda e, labels: answers.append(labels))
    live.refresh()
    pump.until(lambda: bool(answers))
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(image)
    probability = session.predict(0, TUNING).probability
    cuts = np.quantile(probability, np.linspace(0.1, 0.7, 100))
    for cut in cuts:
        live.set_tuning(TUNING.replace(cut=float(cut)))
    count = len(answers)
    pump.until(lambda: len(answers) >= count + 2)
    expected = session.predict(0, TUNING.replace(cut=float(cuts[-1]))).labels
    np.testing.assert_array_equal(answers[-1], expected)
    assert 0 < expected.sum() < expected.size


def training(tmp_path: Path, lane: TrainingController, epochs: int) -> Path:
    image = volume(2)[:, :40, :40]
    labels = (image > 0).astype(np.uint8)
    out = tmp_path / "model.safetensors"
    settings = replace(
        RECIPES["threshold-matters"],
        options={"width": 0.125, "stride": 8},
        epochs=epochs,
        batch=2,
        crop=None,
        patience=0,
    )
    lane.start_layers(settings, out, lane.open_image(image), labels, device="cpu")
    return out


def test_training_stops_by_itself_and_keeps_the_model(
    scratch: Scratch, pump: Pump, tmp_path: Path
) -> None:
    client = ChildClient("training", dispatch=pump.calls.put)
    lane = TrainingController(client, scratch)
    epochs: list[object] = []
    ends: list[object] = []
    problems: list[object] = []
    lane.epoch_done.connect(epochs.append)
    lane.finished.connect(ends.append)
    lane.failed.connect(problems.append)
    try:
        out = training(tmp_path, lane, 10_000)
        pump.until(lambda: len(epochs) > 2 or bool(problems))
        began = time.monotonic()
        lane.stop()
        pump.until(lambda: bool(ends) or bool(problems))
        assert not problems, problems
        assert time.monotonic() - began < 6.0  # well under 1 s on a machine at rest
        assert client.generation == 1, "it was asked, not killed"
    finally:
        client.close()
    Session(out, device="cpu")
    assert lane.can_resume


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments(
    client: ChildClient, scratch: Scratch, pump: Pump, tiny_checkpoint: Path
) -> None:
    """Twelve kills between start and end of a run: each is told once, the next run works."""
    rng = np.random.default_rng(0)
    live = LiveController(client, scratch)
    live.open_image(volume(2000))
    live.set_model(str(tiny_checkpoint), "cpu", TUNING)
    causes: list[str] = []
    ends: list[object] = []
    live.engine_lost.connect(causes.append)
    live.finished.connect(ends.append)
    for number in range(1, 13):
        live.run()
        pid = client.pid
        moment = time.monotonic() + float(rng.uniform(0.0, 5.0))
        pump.until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
        assert pid == client.pid
        kill(client)
        pump.until(lambda number=number: len(causes) == number)  # type: ignore[misc]
        assert not live.state.busy
    assert not ends
    live.run([3])
    pump.until(lambda: bool(ends))


@pytest.mark.slow
def test_killed_training_resumes(scratch: Scratch, pump: Pump, tmp_path: Path) -> None:
    client = ChildClient("training", dispatch=pump.calls.put)
    lane = TrainingController(client, scratch)
    epochs: list[int] = []
    ends: list[object] = []
    lost: list[str] = []
    lane.epoch_done.connect(lambda e: epochs.append(e.epoch))
    lane.finished.connect(ends.append)
    lane.engine_lost.connect(lost.append)
    try:
        out = training(tmp_path, lane, 10_000)
        pump.until(lambda: len(epochs) > 3)
        lane.stop()
        pump.until(lambda: bool(ends))
        reached = epochs[-1]
        lane.resume()
        pump.until(lambda: epochs[-1] > reached + 3)
        kill(client)
        pump.until(lambda: bool(lost))
        assert not lane.busy
        Session(out, device="cpu")
        assert lane.can_resume
        count = len(epochs)
        lane.resume()
        pump.until(lambda: len(epochs) > count)
        assert epochs[count] > reached
    finally:
        client.close()
