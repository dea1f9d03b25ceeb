"""The engine's own promises: files, reuse of sessions, stopping, full disks."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import TUNING, answers, image_of, noise, only, run_of

from napari_attnseg.control.messages import (
    Event,
    Finished,
    ImageRef,
    Note,
    Predict,
    Request,
    Retune,
    SliceDone,
    Started,
    Train,
)
from napari_attnseg.engine import results as results_module
from napari_attnseg.engine import sessions as module
from napari_attnseg.engine.results import ResultFiles, open_array, save_array
from napari_attnseg.engine.service import Engine
from napari_attnseg.errors import EngineError


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path) -> Predict:
    return run_of(tmp_path, image_of(tmp_path, noise(4, 33, 41)), tiny_checkpoint, (2, 0))


def test_only_the_asked_slices_are_written(engine: Engine, work: Predict) -> None:
    events = answers(engine, work)
    assert [type(e) for e in events] == [Started, SliceDone, SliceDone, Finished]
    started = events[0]
    assert isinstance(started, Started)
    probability = np.load(started.files["probability"])
    assert probability.shape == (4, 33, 41)
    assert [bool(p.any()) for p in probability] == [True, False, True, False]


def test_a_second_pass_keeps_the_other_slices(engine: Engine, work: Predict) -> None:
    answers(engine, work)
    events = answers(engine, replace(work, order=(1,)))
    started = events[0]
    assert isinstance(started, Started)
    filled = [bool(p.any()) for p in np.load(started.files["probability"])]
    assert filled == [True, True, True, False]


def test_received_may_be_left_to_the_first_slice(engine: Engine, work: Predict) -> None:
    events = answers(engine, replace(work, received=False))
    started = events[0]
    assert isinstance(started, Started)
    assert [bool(r.any()) for r in np.load(started.files["received"])] == [
        False,
        False,
        True,
        False,
    ]


def test_stop_ends_after_the_running_slice(engine: Engine, work: Predict) -> None:
    events = answers(engine, replace(work, order=(0, 1, 2, 3)), until=1)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"
    assert len(only(SliceDone, events)) == 1


def test_one_session_serves_all_requests_of_a_model(
    engine: Engine, work: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_attnseg.engine import session as session_module

    made: list[object] = []
    true_init = session_module.Session.__init__

    def counting(self: object, *a: object, **k: object) -> None:
        made.append(self)
        true_init(self, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(session_module.Session, "__init__", counting)
    answers(engine, work)
    tune = Retune(2, work.image, work.checkpoint, "cpu", TUNING, 2, work.out)
    (event,) = answers(engine, tune)
    assert "attend" not in getattr(event, "woken", ())
    assert len(made) == 1


def test_a_checkpoint_written_anew_is_loaded_anew(
    engine: Engine, work: Predict, tmp_path: Path
) -> None:
    import torch

    from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint

    known = load_checkpoint(work.checkpoint)
    path = tmp_path / "mine.safetensors"
    mine = replace(work, checkpoint=str(path), order=(0,))
    save_checkpoint(path, known.model, known.card)
    answers(engine, mine)
    before = np.load(Path(work.out) / "probability.npy")[0]
    with torch.no_grad():
        for p in known.model.parameters():
            p.mul_(1.5)
    save_checkpoint(path, known.model, known.card)
    os.utime(path, ns=(1, 1))
    answers(engine, mine)
    assert not np.array_equal(before, np.load(Path(work.out) / "probability.npy")[0])


def test_the_longest_unused_model_leaves(engine: Engine, work: Predict, tmp_path: Path) -> None:
    import shutil

    for number in range(4):
        copy = tmp_path / f"{number}.safetensors"
        shutil.copy(work.checkpoint, copy)
        answers(engine, replace(work, checkpoint=str(copy), order=(0,)))
    assert len(engine._sessions.kept) == module.MAX_SESSIONS
    assert {Path(key[0]).stem for key in engine._sessions.kept} == {"2", "3"}
    assert set(engine._sessions.images) == set(engine._sessions.kept)


def test_notes_of_the_session_reach_the_person(
    engine: Engine, work: Predict, tmp_path: Path
) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (1, 20, 20, 3), np.uint8)
    ref = image_of(tmp_path, colour, "rgb", rgb=True)
    started = answers(engine, replace(work, image=ref, order=(0,)))[0]
    assert isinstance(started, Started)
    assert any("luminance" in note for note in started.notes)


def test_a_note_made_on_the_way_is_told_on_the_way(
    engine: Engine, work: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = engine.handle(work)
    next(iter(events))
    (session,) = engine._sessions.kept.values()
    session._device_notes.append("memory ran out: smaller row blocks")
    assert [n.text for n in only(Note, (e for e in events if e))] == [
        "memory ran out: smaller row blocks"
    ]


def test_stop_while_files_are_read_saves_nothing(engine: Engine, tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[0, 8:20, 8:20] = 1
    np.save(tmp_path / "i.npy", image)
    np.save(tmp_path / "l.npy", labels)
    out = tmp_path / "m.safetensors"
    work = Train(
        5,
        image=ImageRef("k", str(tmp_path / "i.npy")),
        labels=str(tmp_path / "l.npy"),
        out=str(out),
    )
    events = engine.handle(work)
    assert next(events) is None
    engine.stop(5)
    assert list(events) == [Finished(5, "cancelled", summary={"epochs": 0})]
    assert not out.exists()


def test_an_unknown_request_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="does not know"):
        answers(engine, Request(1))


def test_result_files_of_another_shape_are_made_anew(tmp_path: Path) -> None:
    ResultFiles(tmp_path, (2, 5, 7), (1, 1)).labels.write(1, np.full((5, 7), 3, np.uint8))
    same = np.load(ResultFiles(tmp_path, (2, 5, 7), (1, 1)).files["labels"])
    np.testing.assert_array_equal(same, [np.zeros((5, 7)), np.full((5, 7), 3)])
    again = np.load(ResultFiles(tmp_path, (2, 5, 8), (1, 1)).files["labels"])
    assert again.shape == (2, 5, 8)
    assert not again.any()


def test_a_model_without_attention_has_no_maps(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path, (1, 5, 7), (0, 0))
    assert set(files.files) == {"labels", "probability"}
    files.write_map("step", 0, None)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_a_sentence_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EngineError, match="No space left"):
        open_array(tmp_path / "a.npy", (2, 3), np.uint8)
    assert not (tmp_path / "a.npy").exists()
    monkeypatch.setattr(results_module.np, "save", full)
    with pytest.raises(EngineError, match="No space left"):
        save_array(tmp_path / "b.npy", np.zeros(3))
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_run_finished_is_not_lost_when_it_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_array(tmp_path / "a.npy", (2, 3), np.uint8)[:] = 7

    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(results_module.np.lib.format, "open_memmap", busy)
        with pytest.raises(EngineError, match="open files"):
            open_array(tmp_path / "a.npy", (2, 3), np.uint8)
    assert (open_array(tmp_path / "a.npy", (2, 3), np.uint8) == 7).all()


def test_a_question_about_another_image_leaves_the_running_one_alone(
    engine: Engine, work: Predict, tmp_path: Path
) -> None:
    ref = image_of(tmp_path, noise(2, 17, 23, seed=1), "other")
    ask = Retune(2, ref, work.checkpoint, "cpu", TUNING, 1, str(tmp_path / "live"))
    undisturbed = probability_of(answers(engine, work))
    fields: dict[str, Any] = {"seconds": 0.0, "woken": ()}
    alone = replace(answers(Engine(), ask)[-1], **fields)
    events = []
    for event in engine.handle(replace(work, out=str(tmp_path / "again"), order=(0, 2))):
        events.append(event)
        if isinstance(event, SliceDone):
            assert replace(answers(engine, ask)[-1], **fields) == alone
    again = probability_of([e for e in events if e is not None])
    np.testing.assert_array_equal(again[[0, 2]], undisturbed[[0, 2]])


def probability_of(events: list[Event]) -> np.ndarray:
    (started,) = only(Started, events)
    return np.array(np.load(started.files["probability"]))


def test_other_models_do_not_push_the_running_one_out(
    engine: Engine, work: Predict, tmp_path: Path
) -> None:
    others = [tmp_path / f"model_{i}.safetensors" for i in range(2)]
    for path in others:
        path.write_bytes(Path(work.checkpoint).read_bytes())
    last: Event | None = None
    for last in engine.handle(work):
        if isinstance(last, SliceDone):
            for path in others:
                ask = Retune(2, work.image, str(path), "cpu", TUNING, 1, str(tmp_path / "live"))
                answers(engine, ask)
    assert isinstance(last, Finished)
    assert last.reason == "done"
