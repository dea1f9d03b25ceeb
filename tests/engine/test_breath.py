"""A cancelled run ends inside a slice, in the middle of a network, and the engine stays alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import TUNING, answers, done, ended, image_of, noise, only, run_of

from napari_attnseg.attention import functional
from napari_attnseg.breath import Interrupted, breathe, interrupt, interruptible, settled
from napari_attnseg.control import messages as m
from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.questions import StepDone
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session


def test_only_the_named_work_of_this_thread_is_ended() -> None:
    interrupt(7)
    try:
        breathe()  # nothing that has a number
        with interruptible(6):
            breathe()
            with interruptible(7), pytest.raises(Interrupted):
                breathe()
            breathe()
            heard: list[str] = []
            other = threading.Thread(target=lambda: (breathe(), heard.append("alive")))
            other.start()
            other.join()
        assert heard == ["alive"]
    finally:
        settled(7)
    with interruptible(7):
        breathe()


def test_an_attention_is_left_between_two_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 11 * 13, 4)
    grid = functional.Grid(11, 13, 1.0, block_bytes=13 * 11 * 13 * 4)  # one image row a block
    softmax, rows = torch.softmax, []

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        rows.append(1)
        if len(rows) == 3:
            interrupt(5)
        return softmax(*args, **kwargs)  # type: ignore[arg-type,call-overload,no-any-return]

    monkeypatch.setattr(torch, "softmax", counted)
    with torch.no_grad(), interruptible(5), pytest.raises(Interrupted):
        functional.attend(q, q, q, grid)
    settled(5)
    assert len(rows) == 3


def work_on(
    folder: Path, image: np.ndarray, checkpoint: Path, number: int, **more: object
) -> m.Predict:
    ref = image_of(folder, image)
    return run_of(folder, ref, checkpoint, range(len(image)), id=number, **more)


def test_a_run_ends_within_its_slice_and_the_next_one_is_whole(
    engine: Engine, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    image = noise(3, 33, 41)
    layers: list[str] = []

    def on_layer(module: torch.nn.Module, inputs: object) -> None:
        layers.append(type(module).__name__)
        if layers.count("MaxPool2d") == 2:  # there is one a slice
            interrupt(3)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(on_layer)
    try:
        events = answers(engine, work_on(tmp_path, image, tiny_checkpoint, 3))
    finally:
        hook.remove()
    assert ended(events).reason == "cancelled"
    assert layers[-1] == "MaxPool2d"  # the layers behind it were left out
    assert len(done(events)) == 1
    again = answers(engine, work_on(tmp_path, image, tiny_checkpoint, 4))
    assert ended(again).reason == "done"
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(image)
    labels = np.load(tmp_path / "out" / "labels.npy")
    for z in range(3):
        assert np.array_equal(labels[z], session.predict(z, TUNING).labels)


def test_a_run_along_another_axis_ends_within_its_slice_and_goes_on(
    engine: Engine, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    work = work_on(tmp_path, noise(3, 33, 41), tiny_checkpoint, 3, axis="coronal")
    layers: list[str] = []

    def on_layer(module: torch.nn.Module, inputs: object) -> None:
        layers.append(type(module).__name__)
        if layers.count("MaxPool2d") == 5:  # there is one a slice
            interrupt(3)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(on_layer)
    try:
        events = answers(engine, work)
    finally:
        hook.remove()
    assert ended(events).reason == "cancelled"
    assert layers[-1] == "MaxPool2d"
    assert [e.done for e in only(StepDone, events)] == [1, 2, 3, 4]
    again = ended(answers(engine, work))  # of the same number, and nobody interrupts it
    assert again.reason == "done"
    whole = ended(answers(Engine(), replace(work, id=4, out=str(tmp_path / "whole"))))
    for name in ("labels", "probability"):
        assert np.array_equal(np.load(again.outputs[name]), np.load(whole.outputs[name]))


@pytest.fixture
def client() -> Iterator[ChildClient]:
    made = ChildClient()
    yield made
    made.close()


def soon(found: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not found():
        time.sleep(0.01)
    return found()


def test_cancel_within_a_long_slice_leaves_the_engine_process_alive(
    tmp_path: Path, tiny_checkpoint: Path, client: ChildClient
) -> None:
    image = noise(2, 2200, 2200)
    events: list[m.Event] = []
    client.subscribe(events.append)
    number = client.send(work_on(tmp_path, image, tiny_checkpoint, client.new_id()))
    assert soon(lambda: any(isinstance(e, m.Started) for e in events))
    pid = client.pid
    time.sleep(0.3)
    client.cancel(number)
    assert soon(lambda: isinstance(events[-1], m.Finished), 20)
    assert not any(isinstance(e, m.SliceDone) for e in events)
    assert events[-1].reason == "cancelled"  # type: ignore[attr-defined]
    assert "engine" not in events[-1].summary  # type: ignore[attr-defined]
    assert client.pid == pid
    client.send(m.Describe(client.new_id()))
    assert soon(lambda: isinstance(events[-1], m.Described))
    assert not any(isinstance(e, m.Stopping) for e in events)  # it has ended before it was asked to
    assert client.pid == pid
