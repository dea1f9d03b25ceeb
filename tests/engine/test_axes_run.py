"""A run along other axes: told step by step, stopped, gone on with, beside live answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control import messages as m
from napari_attnseg.control.questions import StepDone
from napari_attnseg.engine.axes import segment_along
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning

TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)
SHAPE = (7, 33, 41)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path, image: np.ndarray) -> m.Predict:
    np.save(tmp_path / "image.npy", image)
    ref = m.ImageRef("k", str(tmp_path / "image.npy"), spacing_mm=(2.0, 1.0, 1.0))
    order = (3, *(z for z in range(SHAPE[0]) if z != 3))
    out = str(tmp_path / "out")
    return m.Predict(1, ref, str(tiny_checkpoint), "cpu", TUNING, order, out, axis="all")


@pytest.fixture
def expected(tiny_checkpoint: Path, image: np.ndarray, tmp_path: Path) -> np.ndarray:
    session = Session(tiny_checkpoint, "cpu")
    session.set_image(image, spacing_mm=(2.0, 1.0, 1.0))
    found = segment_along(session, "all", TUNING, tmp_path)
    return np.stack([answer.probability for _, answer in found])


def answers(engine: Engine, request: m.Request, until: int = 10**6) -> list[m.Event]:
    """Events; after so many computed slices the run is stopped."""
    found: list[m.Event] = []
    for event in engine.handle(request):
        if event is not None:
            found.append(event)
        if sum(isinstance(e, StepDone) for e in found) == until:
            engine.stop(request.id)
    return found


def test_every_step_is_told_and_the_seen_slice_comes_first(
    engine: Engine, work: m.Predict, expected: np.ndarray
) -> None:
    events = answers(engine, work)
    kinds = [type(e) for e in events]
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [(e.done, e.total) for e in steps] == [(i + 1, 81) for i in range(81)]
    assert kinds[0] is m.Started
    assert [e.z for e in events if isinstance(e, m.SliceDone)] == list(work.order)
    last = events[-1]
    assert isinstance(last, m.Finished)
    assert last.summary["provenance"]["axis"] == "all"
    assert last.summary["computed"] == SHAPE[0]
    np.testing.assert_array_equal(np.load(last.outputs["probability"]), expected)
    np.testing.assert_array_equal(np.load(last.outputs["labels"]), expected >= 0.5)
    assert expected.std() > 1e-3


def test_a_stopped_run_goes_on_and_a_finished_one_is_known(
    engine: Engine, work: m.Predict, expected: np.ndarray
) -> None:
    stopped = answers(engine, work, until=20)
    end = stopped[-1]
    assert isinstance(end, m.Finished)
    assert end.reason == "cancelled"
    assert not any(isinstance(e, m.SliceDone) for e in stopped)
    rest = answers(engine, replace(work, id=2))
    assert isinstance(rest[-1], m.Finished)
    np.testing.assert_array_equal(np.load(rest[-1].outputs["probability"]), expected)
    again = answers(engine, replace(work, id=3))
    assert not any(isinstance(e, StepDone) for e in again)
    assert isinstance(again[-1], m.Finished)
    assert again[-1].summary["computed"] == 0


def test_live_answers_meanwhile_are_of_axial_slices(
    engine: Engine, work: m.Predict, image: np.ndarray, tiny_checkpoint: Path
) -> None:
    plain = Session(tiny_checkpoint, "cpu")
    plain.set_image(image, spacing_mm=(2.0, 1.0, 1.0))
    ask = m.Retune(9, work.image, work.checkpoint, "cpu", TUNING, 4, work.out)
    steps = 0
    for event in engine.handle(work):
        steps += isinstance(event, StepDone)
        if isinstance(event, StepDone) and steps == 12:  # among the coronal slices
            assert any(isinstance(e, m.Retuned) for e in engine.handle(ask))
            live = np.load(Path(work.out) / "live_probability.npy")[0]
            np.testing.assert_array_equal(live, plain.predict(4, TUNING).probability)
            return
    pytest.fail("there was no step")


def test_one_slice_has_no_other_axis(engine: Engine, work: m.Predict, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((1, 33, 41), np.float32))
    ref = m.ImageRef("f", str(tmp_path / "flat.npy"))
    with pytest.raises(InputError, match="one slice"):
        answers(engine, replace(work, image=ref, order=(0,), axis="coronal"))
