"""A run whose engine is killed again and again goes on each time where it was, and ends right."""

from __future__ import annotations

import os
import queue
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Finished
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.engine.session import Session
from napari_attnseg.settings import Tuning

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)
SHAPE = (300, 45, 61)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_each_slice_is_computed_once(
    kills: int, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    calls: queue.Queue[Callable[[], None]] = queue.Queue()
    scratch, client = Scratch(tmp_path / "scratch"), ChildClient(dispatch=calls.put)
    live = LiveController(client, scratch)
    live.open_image(image)
    live.set_model(str(tiny_checkpoint), "cpu", TUNING)
    lost: list[str] = []
    ends: list[Finished] = []
    notes: list[str] = []
    seen: list[int] = []
    live.engine_lost.connect(lost.append)
    live.finished.connect(ends.append)
    live.note.connect(notes.append)
    live.slice_done.connect(lambda event: seen.append(event.z))

    def until(done: Callable[[], bool], seconds: float = 240.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "waited in vain"
            try:
                calls.get(timeout=0.01)()
            except queue.Empty:
                continue

    chance = random.Random(kills)
    live.run()
    for number in range(kills):
        most = len(set(seen)) + chance.randint(1, 200 // kills)
        moment = time.monotonic() + 60 if number % 3 else time.monotonic() + chance.random() * 3
        until(lambda most=most, moment=moment: len(set(seen)) >= most or time.monotonic() > moment)  # type: ignore[misc]
        if ends:
            break
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        until(lambda number=number: len(lost) > number)  # type: ignore[misc]
        live.run()
    until(lambda: bool(ends))
    assert len(lost) == kills
    assert ends[0].reason == "done"
    assert set(seen) == set(range(SHAPE[0]))
    told = [int(text.split()[0]) for text in notes if "were finished before" in text]
    assert told == sorted(told)
    assert told[-1] + ends[0].summary["computed"] == SHAPE[0], "the last life did the rest alone"
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(image)
    results = live.state.results
    assert results is not None
    labels, probability = results.array("labels"), results.array("probability")
    assert labels is not None
    assert probability is not None
    for z in range(0, SHAPE[0], 7):
        expected = session.predict(z, TUNING)
        np.testing.assert_array_equal(labels[z], expected.labels)
        np.testing.assert_array_equal(probability[z], expected.probability)
    client.close()
    scratch.close()
