"""A 3D model behind the engine's requests: a run, its order, stopping, live answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

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
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


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
    np.save(tmp_path / "image.npy", np.random.default_rng(0).normal(size=SHAPE))
    ref = m.ImageRef("k", str(tmp_path / "image.npy"))
    order = (5, *(z for z in range(SHAPE[0]) if z != 5))
    out, net = str(tmp_path / "out"), str(tmp_path / "net.safetensors")
    return m.Predict(1, ref, net, "cpu", Tuning(), order, out)


def answers(engine: Engine, request: m.Request, until: int = 10**6) -> list[m.Event]:
    found: list[m.Event] = []
    for event in engine.handle(request):
        if event is not None:
            found.append(event)
        if sum(isinstance(e, m.SliceDone) for e in found) == until:
            engine.stop(request.id)
    return found


def expected(work: m.Predict) -> np.ndarray:
    session = Session(work.checkpoint, "cpu")
    session.set_image(np.load(work.image.path))
    return np.stack([p.probability for _, p in session.run()])


def test_a_run_writes_what_a_session_answers(engine: Engine, work: m.Predict) -> None:
    events = answers(engine, work)
    done = [e.z for e in events if isinstance(e, m.SliceDone)]
    assert done[0] == 5
    assert sorted(done) == list(range(SHAPE[0]))
    last = events[-1]
    assert isinstance(last, m.Finished)
    np.testing.assert_array_equal(np.load(last.outputs["probability"]), expected(work))
    assert last.summary["provenance"]["window"] == [4, 8, 8]
    assert set(last.outputs) == {"labels", "probability"}
    started = events[0]
    assert isinstance(started, m.Started)
    assert any("windows of 4 x 8 x 8" in note for note in started.notes)


def test_a_stopped_run_goes_on(engine: Engine, work: m.Predict) -> None:
    stopped = answers(engine, work, until=3)
    assert isinstance(stopped[-1], m.Finished)
    assert stopped[-1].reason == "cancelled"
    rest = answers(engine, replace(work, id=2))
    assert any(isinstance(e, m.Note) and "3 of 11 slices" in e.text for e in rest)
    found = np.load(rest[-1].outputs["probability"])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found, expected(work))


def test_a_live_answer_of_many_windows_is_put_off(engine: Engine, work: m.Predict) -> None:
    ask = m.Retune(9, work.image, work.checkpoint, "cpu", Tuning.of(level_1=0.5), 5, work.out)
    with pytest.raises(InputError, match="let the slider go"):
        answers(engine, ask)
    answers(engine, work)
    cut = replace(ask, tuning=Tuning.of(cut=0.4), z=10)
    found = [e for e in answers(engine, cut) if isinstance(e, m.Retuned)]
    assert found[0].woken == ("cut",)
    wide = replace(ask, tile=64, tuning=Tuning.of(level_1=0.5))
    assert any(isinstance(e, m.Retuned) for e in answers(engine, wide))
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
