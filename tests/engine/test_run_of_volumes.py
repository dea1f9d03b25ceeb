"""A 3D model behind the engine's requests: a run, its order, stopping, live answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import answers, done, ended, image_of, noise, only, run_of, seen_first

from napari_attnseg.cards import Card
from napari_attnseg.control import messages as m
from napari_attnseg.control import questions as q
from napari_attnseg.engine import forecast
from napari_attnseg.engine.service import LIVE_WINDOWS, Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.checkpoint import save_checkpoint
from napari_attnseg.settings import Preprocessing, Tuning

SHAPE = (11, 17, 13)


@pytest.fixture
def work(tmp_path: Path) -> m.Predict:
    torch.manual_seed(0)
    wish = {"attention": "bottleneck=se", "width": 0.07, "levels": 1, "ndim": 3}
    model = create_model("placed_unet", in_channels=1, **wish)
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(patch=(4, 8, 8)),
        class_names=("background", "foreground"),
        tuning=model.tuning(),
    )
    save_checkpoint(tmp_path / "net.safetensors", model, card)
    ref, order = image_of(tmp_path, noise(*SHAPE)), seen_first(5, SHAPE[0])
    return run_of(tmp_path, ref, tmp_path / "net.safetensors", order, tuning=Tuning())


def expected(work: m.Predict) -> np.ndarray:
    session = Session(work.checkpoint, "cpu")
    session.set_image(np.load(work.image.path))
    return np.stack([p.probability for _, p in session.run()])


def test_a_run_writes_what_a_session_answers(engine: Engine, work: m.Predict) -> None:
    events = answers(engine, work)
    slices = done(events)
    assert slices[0] == 5
    assert sorted(slices) == list(range(SHAPE[0]))
    last = ended(events)
    np.testing.assert_array_equal(np.load(last.outputs["probability"]), expected(work))
    assert last.summary["provenance"]["window"] == [4, 8, 8]
    assert set(last.outputs) == {"labels", "probability"}
    started = events[0]
    assert isinstance(started, m.Started)
    assert any("windows of 4 x 8 x 8" in note for note in started.notes)


def test_a_stopped_run_goes_on(engine: Engine, work: m.Predict) -> None:
    assert ended(answers(engine, work, until=3)).reason == "cancelled"
    rest = answers(engine, replace(work, id=2))
    assert any("3 of 11 slices" in e.text for e in only(m.Note, rest))
    found = np.load(ended(rest).outputs["probability"])
    np.testing.assert_array_equal(found, expected(work))


def test_a_live_answer_of_many_windows_is_put_off(engine: Engine, work: m.Predict) -> None:
    ask = m.Retune(9, work.image, work.checkpoint, "cpu", Tuning.of(level_1=0.5), 5, work.out)
    with pytest.raises(InputError, match="let the slider go"):
        answers(engine, ask)
    answers(engine, work)
    cut = replace(ask, tuning=Tuning.of(cut=0.4), z=10)
    assert only(m.Retuned, answers(engine, cut))[0].woken == ("cut",)
    wide = replace(ask, tile=64, tuning=Tuning.of(level_1=0.5))
    assert only(m.Retuned, answers(engine, wide))
    assert LIVE_WINDOWS >= 1


def test_a_forecast_counts_every_window_of_the_run_once(
    work: m.Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, passes = Engine(), [0]
    session = engine._sessions.open(work)
    session.model.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: float(passes[0]))
    about = (work.image, work.checkpoint, "cpu", work.tuning, 3, SHAPE[0])
    (told,) = (e for e in engine.handle(q.Forecast(7, *about)) if isinstance(e, q.Forecasted))
    measured = passes[0]
    assert measured > 0
    answers(engine, work)
    assert told.seconds == pytest.approx(passes[0]), "a window takes one tick of this clock"
    assert measured < passes[0]
    assert told.note.startswith("measured on slice 3:")
    engine.close()
