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
from napari_attnseg.engine.retuning import LIVE_WINDOWS
from napari_attnseg.engine.service import Engine
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


def test_a_live_answer_of_many_windows_is_that_of_one(engine: Engine, work: m.Predict) -> None:
    """The window about the middle of the view answers alone; around it stands the run's answer."""
    out, moved = Path(work.out), Tuning.of(level_1=0.5, cut=0.4)
    ask = m.Retune(9, work.image, work.checkpoint, "cpu", moved, 5, work.out, near=(15, 11))
    (found,) = only(m.Retuned, answers(engine, ask))
    assert found.window == "slices 3 to 6, rows 9 to 16, columns 5 to 12"
    before = np.load(out / "live_labels.npy")[found.buffer]
    assert not before[:9].any()
    assert not before[:, :5].any()
    assert before.any()
    answers(engine, work)
    (again,) = only(m.Retuned, answers(engine, replace(ask, buffer=1)))
    assert again.woken == ("cut",)
    known = np.load(out / "labels.npy")[5].copy()
    known[9:, 5:] = before[9:, 5:]
    np.testing.assert_array_equal(np.load(out / "live_labels.npy")[1], known)
    cut = replace(ask, tuning=Tuning.of(cut=0.4), z=10)
    (whole,) = only(m.Retuned, answers(engine, cut))
    assert whole.woken == ("cut",)
    assert not whole.window
    wide = replace(ask, tile=64, tuning=Tuning.of(level_1=0.5))
    (few,) = only(m.Retuned, answers(engine, wide))
    assert not few.window
    assert LIVE_WINDOWS >= 1


def test_before_and_after_a_level_in_the_same_window(engine: Engine, work: m.Predict) -> None:
    answers(engine, work)
    off = Tuning.of(level_1=0.0)
    ask = m.Retune(9, work.image, work.checkpoint, "cpu", Tuning(), 5, work.out, near=(0, 0))
    (found,) = only(m.Retuned, answers(engine, replace(ask, compare=True, against=off)))
    assert found.window == "slices 3 to 6, rows 0 to 7, columns 0 to 7"
    after, before = (
        np.load(Path(work.out) / f"live_{name}.npy")[0] for name in ("labels", "plain")
    )
    alone = window_by_hand(work, 0.0)
    np.testing.assert_array_equal(before[:8, :8], alone[2] >= 0)
    np.testing.assert_array_equal(after[:8, :8], window_by_hand(work, 1.0)[2] >= 0)
    assert (before[8:] == after[8:]).all()
    assert (before[:, 8:] == after[:, 8:]).all()
    gained, lost = (after > before).sum(), (after < before).sum()
    assert (found.gained, found.lost) == (gained, lost)
    assert found.kept == ((after > 0) & (before > 0))[:8, :8].sum()
    with pytest.raises(InputError, match="no threshold"):
        answers(engine, replace(ask, compare=True))


def window_by_hand(work: m.Predict, level: float) -> np.ndarray:
    """Logits (d, h, w) of the window at slices 3 to 6, rows and columns 0 to 7."""
    session = Session(work.checkpoint, "cpu")
    session.set_image(np.load(work.image.path))
    x = torch.stack([session._working(z) for z in range(3, 7)], 2)[..., :8, :8]
    with torch.no_grad():
        found: np.ndarray = session.model(x, level_1=level)[0, 0].numpy()
    return found


def test_a_window_at_another_size_and_turned(tmp_path: Path, work: m.Predict) -> None:
    """Against the network's own answer over the whole scan, which one window holds."""
    session = Session(work.checkpoint, "cpu")
    pre = replace(session.card.preprocessing, patch=(64, 64, 64), spacing_mm=(2.0, 1.0, 1.0))
    session.card = replace(session.card, preprocessing=pre)
    session.set_image(noise(*SHAPE), flips=(True, False, True), spacing_mm=(3.0, 0.6, 0.7))
    for z in (0, 4, 10):
        plain = session.predict(z)
        found = session.window.answer(session, z, None)
        assert (found.rows, found.columns) == ((0, SHAPE[1]), (0, SHAPE[2]))
        np.testing.assert_allclose(found.probability, plain.probability, atol=1e-5)


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
