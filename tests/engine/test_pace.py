"""Live answers leave a processor to the window while they are quick."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from napari_attnseg.engine import device, pace
from napari_attnseg.engine.pace import LivePace


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A machine of four processors, all used by torch."""
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_cpus", lambda: 4)
    monkeypatch.setattr(pace, "QUICK_SECONDS", 0.05)
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def used(live: LivePace, about: object, seconds: float = 0.0) -> int:
    """Threads that one answer had."""
    with live.answering(about):
        found = torch.get_num_threads()
        time.sleep(seconds)
    return found


def test_the_first_answer_about_something_takes_the_machine(threads: int) -> None:
    live = LivePace()
    assert [used(live, "slice 1") for _ in range(3)] == [threads, threads - 1, threads - 1]
    assert [used(live, "slice 2") for _ in range(2)] == [threads, threads - 1]
    assert torch.get_num_threads() == threads


def test_long_answers_take_the_machine(threads: int) -> None:
    live = LivePace()
    used(live, "slice 1")
    assert used(live, "slice 1", 0.06) == threads - 1
    assert used(live, "slice 1", 0.04) == threads, "with fewer threads this would be long again"
    assert used(live, "slice 1") == threads
    assert used(live, "slice 1") == threads - 1


def test_an_answer_that_fails_gives_the_threads_back(threads: int) -> None:
    live = LivePace()
    used(live, "slice 1")
    with pytest.raises(ValueError, match="no"), live.answering("slice 1"):
        raise ValueError("no")
    assert torch.get_num_threads() == threads
