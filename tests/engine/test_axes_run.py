"""A run along other axes: told step by step, stopped, gone on with, beside live answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import TUNING, answers, done, ended, image_of, noise, only, run_of, seen_first

from napari_attnseg.control import messages as m
from napari_attnseg.control.questions import StepDone
from napari_attnseg.engine.axes import segment_along
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError

SHAPE = (7, 33, 41)


@pytest.fixture
def image() -> np.ndarray:
    return noise(*SHAPE)


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path, image: np.ndarray) -> m.Predict:
    ref = image_of(tmp_path, image, spacing_mm=(2.0, 1.0, 1.0))
    return run_of(tmp_path, ref, tiny_checkpoint, seen_first(3, SHAPE[0]), axis="all")


@pytest.fixture
def expected(tiny_checkpoint: Path, image: np.ndarray, tmp_path: Path) -> np.ndarray:
    session = Session(tiny_checkpoint, "cpu")
    session.set_image(image, spacing_mm=(2.0, 1.0, 1.0))
    found = segment_along(session, "all", TUNING, tmp_path)
    return np.stack([answer.probability for _, answer in found])


def test_every_step_is_told_and_the_seen_slice_comes_first(
    engine: Engine, work: m.Predict, expected: np.ndarray
) -> None:
    events = answers(engine, work)
    kinds = [type(e) for e in events]
    steps = only(StepDone, events)
    assert [(e.done, e.total) for e in steps] == [(i + 1, 81) for i in range(81)]
    assert kinds[0] is m.Started
    assert done(events) == list(work.order)
    last = ended(events)
    assert last.summary["provenance"]["axis"] == "all"
    assert last.summary["computed"] == SHAPE[0]
    np.testing.assert_array_equal(np.load(last.outputs["probability"]), expected)
    np.testing.assert_array_equal(np.load(last.outputs["labels"]), expected >= 0.5)
    assert expected.std() > 1e-3


def test_a_stopped_run_goes_on_and_a_finished_one_is_known(
    engine: Engine, work: m.Predict, expected: np.ndarray
) -> None:
    stopped = answers(engine, work, 20, StepDone)
    assert ended(stopped).reason == "cancelled"
    assert not done(stopped)
    rest = ended(answers(engine, replace(work, id=2)))
    np.testing.assert_array_equal(np.load(rest.outputs["probability"]), expected)
    again = answers(engine, replace(work, id=3))
    assert not only(StepDone, again)
    assert ended(again).summary["computed"] == 0


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
    ref = image_of(tmp_path, np.zeros((1, 33, 41), np.float32), "flat")
    with pytest.raises(InputError, match="one slice"):
        answers(engine, replace(work, image=ref, order=(0,), axis="coronal"))
