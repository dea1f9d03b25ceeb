"""Refined models in a session: every iteration, and values that are whole numbers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from refined_models import refined_checkpoint

IMAGE = np.random.default_rng(3).normal(100, 30, (2, 45, 38)).clip(0, 255).astype(np.uint8)


def cut_through(session: Session) -> float:
    """A cut that leaves both classes in the coarse mask of slice 0."""
    return float(np.median(session.steps(0)[0].probability))


@pytest.fixture(params=["cspn", "dyspn"])
def session(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Session:
    out = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors", request.param)
    made = Session(out, "cpu")
    made.set_image(IMAGE)
    return made


def test_each_step_is_what_predict_gives_for_so_many_iterations(session: Session) -> None:
    tuning = session.tuning.replace(cut=cut_through(session))
    for z in (0, 1):
        steps = session.steps(z, tuning)
        assert [s.number for s in steps] == [0, 1, 2, 3]
        for step in steps:
            told = session.predict(z, tuning.replace(iterations=step.number))
            assert np.allclose(step.probability, told.probability, atol=1e-6)
            assert np.array_equal(step.labels, told.labels)
        default = session.predict(z, tuning)
        assert np.array_equal(steps[-1].labels, default.labels)
    assert len({s.labels.tobytes() for s in steps}) == 4  # the random guidance moves something


def test_step_0_is_the_coarse_model_and_changes_are_counted(
    session: Session, tiny_checkpoint: Path
) -> None:
    coarse = Session(tiny_checkpoint, "cpu")
    coarse.set_image(IMAGE)
    tuning = session.tuning.replace(cut=cut_through(session))
    steps = session.steps(1, tuning)
    alone = coarse.predict(1, coarse.tuning.replace(cut=tuning.cut))
    assert np.array_equal(steps[0].labels, alone.labels)
    assert np.allclose(steps[0].probability, alone.probability, atol=1e-6)
    by_hand = [int((b.labels != a.labels).sum()) for a, b in pairwise(steps)]
    assert [s.changed for s in steps] == [0, *by_hand]
    assert sum(by_hand) > 0


def test_steps_stand_as_the_image_does(session: Session) -> None:
    plain = session.steps(0)
    session.set_image(IMAGE[:, ::-1, ::-1], flips=(False, True, True))
    for a, b in zip(plain, session.steps(0), strict=True):
        assert np.array_equal(a.probability, b.probability[::-1, ::-1])


def test_iterations_wake_the_gate_alone(session: Session) -> None:
    session.predict(0)
    told = session.predict(0, session.tuning.replace(iterations=1))
    assert "encode" not in told.woken
    assert "attend" not in told.woken
    assert "gate" in told.woken
    assert session.predict(0, session.tuning.replace(iterations=1.0)).woken == ()


def test_scrolling_back_asks_for_no_guidance_again(session: Session) -> None:
    calls: list[int] = []
    session.model.guidance.register_forward_hook(lambda *_: calls.append(1))
    for z in (0, 1):
        session.predict(z)
    assert len(calls) == 2
    for z in (0, 1, 0):
        session.steps(z)
        session.predict(z, session.tuning.replace(iterations=1))
    assert len(calls) == 2
    step = session.predict(0).step
    assert step is not None
    session.predict(0, session.tuning.replace(threshold=float(np.median(step))))  # other cells
    assert len(calls) == 3
    session.set_image(IMAGE)
    session.predict(0)
    assert len(calls) == 4


def test_the_coarse_models_attention_can_be_asked(session: Session, tiny_checkpoint: Path) -> None:
    coarse = Session(tiny_checkpoint, "cpu")
    coarse.set_image(IMAGE)
    assert np.array_equal(session.attention_row(0, 20, 11), coarse.attention_row(0, 20, 11))
    assert np.array_equal(session.received(0), coarse.received(0))
    assert np.array_equal(session.predict(0).step, coarse.predict(0).step)
    assert session.maps(0)
    for own, alone in zip(session.maps(0), coarse.maps(0), strict=True):
        assert own.place == f"coarse.{alone.place}"
        assert np.array_equal(own.values, alone.values)


def test_the_curve_over_thresholds_follows_the_iterations(session: Session) -> None:
    cut = cut_through(session)
    for count in (0, 3):
        tuning = session.tuning.replace(cut=cut, iterations=count)
        curve = session.fingerprint(0, tuning, thresholds=[0.05, 2.0])
        for t, area in zip(curve.thresholds, curve.area, strict=True):
            labels = session.predict(0, tuning.replace(threshold=float(t))).labels
            assert area == (labels > 0).sum()


@pytest.mark.parametrize("value", [-1, 1.5, 1000])
def test_other_than_whole_numbers_in_range_are_refused(session: Session, value: float) -> None:
    with pytest.raises(InputError, match=r"expected a whole number from 0 to \d+"):
        session.predict(0, session.tuning.replace(iterations=value))


def test_other_models_have_no_steps(tiny_checkpoint: Path) -> None:
    coarse = Session(tiny_checkpoint, "cpu")
    coarse.set_image(IMAGE)
    with pytest.raises(InputError, match="choose a refined one"):
        coarse.steps(0)
    with pytest.raises(InputError, match="expected 0 to 1"):
        coarse.steps(7)


def test_tiles_give_the_mask_but_no_steps(session: Session) -> None:
    cut_up = Session(session.name, "cpu", tile=32)
    cut_up.set_image(IMAGE)
    assert cut_up.predict(0).labels.shape == (45, 38)
    with pytest.raises(InputError, match="cut into tiles"):
        cut_up.steps(0)
