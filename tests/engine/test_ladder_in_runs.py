"""Memory that ends in the middle of a whole run: the answers stay, and what happened is said."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from asking import answers, done, ended, image_of, noise, only, run_of
from lively import lively_model

from napari_attnseg.cards import Card
from napari_attnseg.control import messages as m
from napari_attnseg.control.child import ChildClient
from napari_attnseg.engine.device import ladder
from napari_attnseg.engine.service import Engine
from napari_attnseg.models.checkpoint import save_checkpoint

SLICES = 7
ENDS = m.Finished, m.Failed, m.EngineLost
GPU = torch.device("meta")
"""Stands for a device that is not the processor and has no memory at all."""


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path) -> m.Predict:
    return run_of(tmp_path, image_of(tmp_path, noise(SLICES, 33, 41)), tiny_checkpoint, range(7))


def on_a_device_that_is_full_after(engine: Engine, work: m.Predict, slices: int) -> Any:
    """The engine's session believes to work on ``GPU``; its numbers are the processor's until so
    many slices are done, and then there is no memory."""
    session, calls = engine._sessions.open(work), [0]
    session.device, session._rungs = GPU, ladder(GPU)
    prepare = session._prepare

    def honest(part: Any) -> torch.Tensor:
        calls[0] += 1
        if session.device == GPU and calls[0] > slices:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        device, session.device = session.device, torch.device("cpu")
        try:
            return prepare(part)
        finally:
            session.device = device

    session.pipeline._prepare = honest
    return session


@pytest.mark.parametrize("axis", ["axial", "coronal", "all"])
def test_a_full_gpu_hands_the_run_over_to_the_processor(
    engine: Engine, work: m.Predict, axis: str
) -> None:
    work = replace(work, axis=axis)
    plain = ended(answers(Engine(), replace(work, out=work.out + "_plain")))
    session = on_a_device_that_is_full_after(engine, work, 3)
    events = answers(engine, work)
    last = ended(events)
    assert last.reason == "done"
    assert sorted(done(events)) == list(range(SLICES))
    assert events[0].device == "meta"  # type: ignore[attr-defined]
    told = [note.text for note in only(m.Note, events)]
    assert told == [
        "memory ran out on meta: attention runs in smaller row blocks (4 MiB, same answer)",
        "memory ran out on meta: attention runs in smaller row blocks (1 MiB, same answer)",
        "memory ran out on meta: running on the CPU from here on (same answer)",
    ]
    assert last.summary["provenance"]["notes"] == told
    assert last.summary["provenance"]["device"] == str(session.device) == "cpu"
    for name in ("labels", "probability"):
        found, expected = (np.load(end.outputs[name]) for end in (last, plain))
        np.testing.assert_array_equal(found, expected)
    assert np.load(last.outputs["labels"]).any()


# --- memory that the system really refuses, in an engine process at work --------------------------


@pytest.fixture
def client() -> Iterator[ChildClient]:
    made = ChildClient()
    yield made
    made.close()


def soon(true: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.01)
    return true()


def limit(pid: int | None, extra: int | None) -> None:
    """At most ``extra`` bytes of address space more than now; ``None``: as many as it likes."""
    import resource

    assert pid is not None
    now = psutil.Process(pid).memory_info().vms
    soft = resource.RLIM_INFINITY if extra is None else now + extra
    resource.prlimit(pid, resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process by prlimit")
def test_a_run_whose_engine_gets_no_more_memory_is_whole_or_ends_with_a_sentence(
    tmp_path: Path, client: ChildClient
) -> None:
    """Less and less is left; whatever comes of it, the engine lives and goes on when there is
    memory again, and every slice that was told is the one of an undisturbed run."""
    model = lively_model()
    save_checkpoint(tmp_path / "net.safetensors", model, Card(spec=model.spec.to_json()))
    image = image_of(tmp_path, noise(4, 384, 384))
    work = run_of(tmp_path, image, tmp_path / "net.safetensors", range(4), tuning=model.tuning())
    events: list[m.Event] = []
    client.subscribe(events.append)

    def run(out: str, extra: int | None) -> list[m.Event]:
        events.clear()
        fresh = replace(image, key=out)  # else its slices would be known
        if extra is not None:
            limit(client.pid, extra)
        client.send(replace(work, id=client.new_id(), image=fresh, out=str(tmp_path / out)))
        assert soon(lambda: bool(events) and isinstance(events[-1], ENDS))
        limit(client.pid, None)
        return list(events)

    whole = ended(run("whole", None))
    pid = client.pid
    outcomes = set()
    for number, extra in enumerate((8 << 20, 3 << 20)):
        found = run(str(number), extra)
        last = found[-1]
        assert client.pid == pid, "the engine is alive"
        if isinstance(last, m.Failed):
            assert last.kind in ("MemoryEndedError", "DeviceError"), last
            assert "memory ran out" in last.message
            assert last.message.startswith(("got a slice of 384 x 384 pixels", "memory ran out;"))
        outcomes.add(type(last).__name__)
        again = ended(run(str(number), None))
        assert again.reason == "done"
        assert again.summary["computed"] <= 4 - len(done(found)), "what was told is not lost"
        labels, expected = (np.load(end.outputs["labels"]) for end in (again, whole))
        np.testing.assert_array_equal(labels, expected)
    assert "Failed" in outcomes, "so little is not enough"
