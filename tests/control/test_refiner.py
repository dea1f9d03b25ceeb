"""The refinement's controller on the real engine: in this process, and in one that is killed."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import (
    Event,
    Finished,
    ImageRef,
    Request,
    decode,
    encode,
)
from napari_attnseg.control.refiner import RefineController
from napari_attnseg.control.refining import AffinityDone, Refine, Refined
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.engine.refine_desk import RefineDesk, Shown
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from refined_models import refined_checkpoint

SHAPE = (3, 60, 71)
IMAGE = np.random.default_rng(3).normal(100, 30, SHAPE).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dyspn(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "dyspn.safetensors"
    return refined_checkpoint(tiny_checkpoint, out, "dyspn")


@pytest.fixture(scope="module")
def expected(dyspn: Path) -> Session:
    """The same model asked directly."""
    session = Session(dyspn, "cpu")
    session.set_image(IMAGE)
    return session


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(tmp_path / "scratch")
    yield made
    made.close()


class Heard:
    """Everything that a controller said."""

    def __init__(self, control: RefineController) -> None:
        self.refined: list[tuple[Refined, np.ndarray, np.ndarray]] = []
        self.steps: list[tuple[Refined, dict[str, np.ndarray]]] = []
        self.weights: list[AffinityDone] = []
        self.failed: list[str] = []
        self.lost: list[str] = []
        self.busy: list[bool] = []
        control.refined.connect(lambda *a: self.refined.append(a))
        control.steps_ready.connect(lambda *a: self.steps.append(a))
        control.affinity_done.connect(self.weights.append)
        control.failed.connect(lambda event: self.failed.append(event.message))
        control.engine_lost.connect(self.lost.append)
        control.busy_changed.connect(self.busy.append)


@pytest.fixture
def control(scratch: Scratch, dyspn: Path) -> Iterator[RefineController]:
    client = InProcessClient()
    live = LiveController(client, scratch)
    live.open_image(IMAGE)
    made = RefineController(client, scratch, live)
    made.set_checkpoint(str(dyspn), "cpu")
    yield made
    made.close()
    live.close()
    client.close()


@pytest.fixture
def heard(control: RefineController, expected: Session) -> Heard:
    cut = float(np.median(expected.steps(0)[0].probability))
    control.set_values(iterations=3, tuning=expected.tuning.replace(cut=cut))
    return Heard(control)


def test_an_answer_is_the_models(
    control: RefineController, heard: Heard, expected: Session
) -> None:
    control.live.set_slice(2)
    control.refresh()
    event, labels, probability = heard.refined[0]
    told = expected.predict(2, control.state.tuning)
    assert np.array_equal(labels, told.labels)
    assert np.allclose(probability, told.probability, atol=1e-6)
    assert (event.z, event.iterations, event.generation) == (2, 3, 0)
    assert event.area == np.count_nonzero(told.labels)
    assert event.woken == ("coarse", "guidance", "iterations")
    control.refresh(z=0)
    assert heard.refined[1][0].z == 0
    assert heard.refined[1][0].buffer != event.buffer


def test_strokes_are_followed_and_undone(control: RefineController, heard: Heard) -> None:
    control.refresh()
    window = control.paint(0, np.full((4, 5), 2, np.uint8), (10, 20))
    assert window == (10, 14, 20, 25)
    control.refresh()
    event, labels, _ = heard.refined[1]
    assert (labels[10:14, 20:25] == 1).all()
    assert (event.anchored, event.generation) == (20, control.generation)
    control.paint(0, np.zeros((4, 5), np.uint8), (10, 20))
    control.refresh()
    before, after = heard.refined[0], heard.refined[2]
    assert before[1].tobytes() == after[1].tobytes()
    assert before[2].tobytes() == after[2].tobytes()
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[1, 5:9, 5:9] = 1
    control.set_strokes(strokes)
    control.refresh(z=1)
    assert heard.refined[3][0].anchored == 16
    assert (heard.refined[3][1][5:9, 5:9] == 0).all()
    control.set_strokes(None)
    control.refresh(z=1)
    assert heard.refined[4][0].anchored == 0


def test_steps_with_everything(control: RefineController, heard: Heard, expected: Session) -> None:
    reference = (IMAGE > 105).astype(np.uint16) * 7
    control.set_reference(reference)
    control.request_steps(attention=True)
    event, files = heard.steps[0]
    assert {k: v.shape[0] for k, v in files.items()} == {
        "labels": 4,
        "probability": 4,
        "change": 4,
        "attention": 3,
    }
    steps = expected.steps(0, control.state.tuning)
    for t, step in enumerate(steps):
        assert np.array_equal(files["labels"][t], step.labels)
        assert np.allclose(files["probability"][t], step.probability, atol=1e-6)
    assert event.changed == tuple(s.changed for s in steps)
    assert (files["change"][0] == 0).all()
    p = files["probability"]
    assert np.array_equal(files["change"][1:], p[1:] - p[:-1])
    truth = reference[0] > 0
    by_hand = [
        2 * np.count_nonzero(s.labels & truth) / (np.count_nonzero(s.labels) + truth.sum())
        for s in steps
    ]
    assert event.dice == pytest.approx(by_hand)
    logits = [np.log(q) - np.log1p(-q) for q in p.astype(np.float64)]
    moved = [0.0, *(float(np.abs(b - a).mean()) for a, b in pairwise(logits))]
    assert event.movement == pytest.approx(moved, rel=1e-3)
    control.refresh()
    live = heard.refined[0]
    assert live[0].dice == pytest.approx(by_hand[-1:])
    assert live[1].tobytes() == files["labels"][-1].tobytes()


def test_files_of_a_few_steps_stay_for_their_layers(
    control: RefineController, heard: Heard
) -> None:
    for z in (0, 1, 2, 0, 1):
        control.request_steps(z)
    end = time.monotonic() + 20
    while len(list(control.scratch.path.glob("steps-*/*.npy"))) > 3 * 3:
        assert time.monotonic() < end, "they are removed by and by"
        time.sleep(0.01)
    first = heard.steps[0][1]["labels"]
    assert first.shape == (4, 60, 71)
    assert int(first.max()) == 1, "maps of files that are gone can still be read"


def test_weights_of_a_pixel_give_one(control: RefineController, heard: Heard) -> None:
    control.request_affinity(0, 70)
    (found,) = heard.weights
    assert (found.z, found.y, found.x) == (0, 0, 70)
    assert len(found.offsets) == len(found.weights) == 48
    assert sum(found.weights) + found.centre + found.residual == pytest.approx(1)
    by_place = dict(zip(found.offsets, found.weights, strict=True))
    assert by_place[-1, 0] == by_place[0, 1] == by_place[3, 3] == 0, "outside the image"
    assert by_place[1, -1] != 0
    assert decode(encode(found)) == found


def test_a_coarse_layer_is_refined_until_it_is_taken_away(
    control: RefineController, heard: Heard
) -> None:
    ids = (IMAGE > 120).astype(np.uint16)
    control.refresh()
    control.set_coarse(ids, "labels")
    control.set_values(iterations=0)
    control.refresh()
    assert np.array_equal(heard.refined[1][1], ids[0])
    control.set_coarse(None)
    control.set_values(iterations=3)
    control.refresh()
    assert heard.refined[2][1].tobytes() == heard.refined[0][1].tobytes()


def test_bad_input_changes_nothing(control: RefineController, heard: Heard) -> None:
    state = control.state
    small = np.zeros((3, 9, 9), np.uint8)
    words = r"of 3 x 9 x 9, expected 3 x 60 x 71 as the image has"
    for call in (
        lambda: control.set_coarse(small, "labels"),
        lambda: control.set_reference(small),
        lambda: control.set_strokes(small),
    ):
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(InputError, match="expected labels or probability"):
        control.set_coarse(IMAGE, "mask")
    assert control.state == state
    control.set_coarse(IMAGE.astype(np.float32), "probability")
    control.refresh()
    assert "expected a probability from 0 to 1" in heard.failed[0]
    assert not heard.refined
    control.set_coarse(None)
    control.refresh()
    assert heard.refined


class Held(InProcessClient):
    """Requests wait until they are let go, as in a busy child."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Request] = []

    def _submit(self, request: Request) -> None:
        self.waiting.append(request)

    def let_go(self) -> list[Request]:
        done, self.waiting = self.waiting, []
        for request in done:
            super()._submit(request)
        return done


@pytest.fixture
def slow(scratch: Scratch, dyspn: Path) -> Iterator[RefineController]:
    client = Held()
    live = LiveController(client, scratch)
    live.open_image(IMAGE)
    made = RefineController(client, scratch, live)
    made.set_checkpoint(str(dyspn), "cpu")
    yield made
    made.close()
    live.close()
    client.close()


def test_of_many_strokes_only_the_newest_is_asked(slow: RefineController) -> None:
    heard, client = Heard(slow), slow.client
    assert isinstance(client, Held)
    for i in range(30):
        slow.paint(0, np.full((2, 2), 2, np.uint8), (i, i))
        slow.refresh()
    assert heard.busy == [True]
    (first,) = client.let_go()
    (last,) = client.let_go()
    assert heard.busy == [True, False]
    assert isinstance(first, Refine)
    assert isinstance(last, Refine)
    assert (first.generation, last.generation) == (1 + 1, slow.generation)
    assert first.buffer != last.buffer
    assert not client.let_go()
    assert [e.generation for e, *_ in heard.refined] == [2, slow.generation]
    assert heard.refined[1][0].anchored == 30 * 4 - 29  # squares that overlap in a corner


def test_a_question_that_fails_does_not_take_the_newer_one_along(slow: RefineController) -> None:
    heard, client = Heard(slow), slow.client
    assert isinstance(client, Held)
    slow.paint(0, np.full((2, 2), 9, np.uint8))
    slow.refresh()
    slow.set_values(strength=0.0)  # strokes are not looked at
    slow.refresh()
    client.let_go()
    assert "label 9, expected at most 2" in heard.failed[0]
    client.let_go()
    assert len(heard.refined) == 1
    assert not slow.busy


def test_stale_answers_are_dropped(slow: RefineController, tiny_checkpoint: Path) -> None:
    heard, client = Heard(slow), slow.client
    assert isinstance(client, Held)
    slow.refresh()
    slow.request_steps()
    slow.request_affinity(3, 3)
    slow.set_coarse((IMAGE > 90).astype(np.uint8), "labels")
    assert not slow.busy
    client.let_go()
    assert not heard.refined
    assert not heard.steps
    assert not heard.weights
    slow.refresh()
    slow.paint(0, np.ones((2, 2), np.uint8))
    slow.live.open_image(IMAGE[:, :40, :40])
    client.let_go()
    assert not heard.refined
    assert (slow.state.coarse, slow.state.strokes) == ("", "")
    slow.refresh()
    client.let_go()
    assert heard.refined[0][1].shape == (40, 40)


def test_steps_that_nobody_waits_for_leave_no_files(
    slow: RefineController, scratch: Scratch
) -> None:
    heard, client = Heard(slow), slow.client
    assert isinstance(client, Held)

    def folders() -> int:
        return len(list(scratch.path.glob("steps-*")))

    slow.request_steps()
    slow.set_coarse((IMAGE > 90).astype(np.uint8), "labels")  # what is on its way is unwanted
    slow.request_steps()
    client.let_go()
    assert len(heard.steps) == 1
    soon(lambda: folders() == 1)
    slow.request_steps()
    (asked,) = client.waiting
    assert isinstance(asked, Refine)
    Path(asked.out).mkdir()
    (Path(asked.out) / "steps_labels.npy").write_bytes(b"half")
    client.waiting.clear()
    client._tell(Finished(asked.id, "cancelled"))
    soon(lambda: folders() == 1)
    assert not slow.busy


def soon(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_model_without_refinement_says_so(
    control: RefineController, heard: Heard, tiny_checkpoint: Path
) -> None:
    control.set_checkpoint(str(tiny_checkpoint), "cpu")
    control.refresh()
    assert "choose a refined one" in heard.failed[0]


# --- steps make way ------------------------------------------------------------------------------


def in_engine(path: Path, dyspn: Path, image: np.ndarray = IMAGE, **values: object) -> Refine:
    np.save(path / f"{len(image[0])}.npy", image)
    ref = ImageRef(str(len(image[0])), str(path / f"{len(image[0])}.npy"))
    found = Refine(5, ref, str(dyspn), "cpu", iterations=3, out=str(path / "live"))
    return replace(found, **values)  # type: ignore[arg-type]


def test_a_stroke_is_answered_between_two_steps(dyspn: Path, tmp_path: Path) -> None:
    strokes = np.lib.format.open_memmap(tmp_path / "s.npy", "w+", np.uint8, SHAPE)
    strokes[0, 5:9, 5:9] = 2
    live = in_engine(tmp_path, dyspn, strokes=str(strokes.filename))
    whole, parted = (replace(live, steps=True, out=str(tmp_path / n)) for n in ("a", "b"))
    engine = Engine()
    for event in engine.handle(whole):
        assert event is None or isinstance(event, Refined)
    slow = engine.handle(parted)
    pauses = 0
    for event in slow:
        if event is None:
            pauses += 1
            strokes[0, 40:44, 40 + pauses] = 1  # what is painted later is not in these steps
            (answer,) = engine.handle(live)
            assert isinstance(answer, Refined)
            assert answer.anchored == 16 + 4 * pauses
    assert pauses == 4
    for name in ("labels", "probability", "change"):
        a, b = (np.load(tmp_path / n / f"steps_{name}.npy") for n in ("a", "b"))
        assert a.tobytes() == b.tobytes()
    engine.close()


def test_of_many_steps_only_two_lie_in_memory(
    dyspn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Shown]] = []
    alive: list[int] = []
    real = RefineDesk.steps

    def watched(desk: RefineDesk, work: Refine) -> Iterator[Shown]:
        for shown in real(desk, work):
            seen.append(weakref.ref(shown))
            yield shown
            del shown
            alive.append(sum(r() is not None for r in seen))

    monkeypatch.setattr(RefineDesk, "steps", watched)
    engine = Engine()
    *_, answer = engine.handle(in_engine(tmp_path, dyspn, steps=True, iterations=9))
    assert isinstance(answer, Refined)
    assert (len(answer.changed), len(seen)) == (10, 10)
    assert max(alive) <= 2
    engine.close()


def test_steps_of_an_image_that_was_left_end(dyspn: Path, tmp_path: Path) -> None:
    engine = Engine()
    slow = engine.handle(in_engine(tmp_path, dyspn, steps=True))
    assert next(slow) is None
    (answer,) = engine.handle(in_engine(tmp_path, dyspn, IMAGE[:, :40, :40], id=6))
    assert isinstance(answer, Refined)
    assert list(slow) == [Finished(5, "cancelled")]
    engine.close()


# --- the real process ----------------------------------------------------------------------------


class Pump:
    """A main thread: runs what a client dispatches, as a window's event loop does."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "waited in vain"
            try:
                self.calls.get(timeout=0.02)()
            except queue.Empty:
                continue


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_engine_is_told_and_the_next_question_answered(
    scratch: Scratch, dyspn: Path, expected: Session
) -> None:
    pump = Pump()
    client = ChildClient(dispatch=pump.calls.put)
    live = LiveController(client, scratch)
    live.open_image(IMAGE)
    control = RefineController(client, scratch, live)
    heard = Heard(control)
    control.set_checkpoint(str(dyspn), "cpu", expected.tuning)
    control.set_values(iterations=3)
    control.paint(0, np.full((4, 4), 2, np.uint8), (8, 8))
    control.refresh()
    pump.until(lambda: bool(heard.refined))
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)  # so that the question is surely not answered
    control.refresh()
    os.kill(client.pid, signal.SIGKILL)
    pump.until(lambda: bool(heard.lost))
    assert not control.busy
    control.request_steps()
    control.refresh()
    pump.until(lambda: len(heard.refined) == 2 and bool(heard.steps))
    first, again = heard.refined
    assert first[1].tobytes() == again[1].tobytes()
    assert first[2].tobytes() == again[2].tobytes()
    assert (again[1][8:12, 8:12] == 1).all()
    events: list[Event] = []
    client.subscribe(events.append)
    control.close()
    live.close()
    client.close()
