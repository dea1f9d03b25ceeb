"""A run over a volume: it follows the person, stops, goes on, and writes what a session answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import TUNING, answers, done, ended, image_of, noise, run_of

from napari_attnseg.control import messages as m
from napari_attnseg.engine import results as results_module
from napari_attnseg.engine.results import SliceFile, probability_type
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session

SLICES = 13


@pytest.fixture
def image() -> np.ndarray:
    return noise(SLICES, 33, 41)


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path, image: np.ndarray) -> m.Predict:
    return run_of(tmp_path, image_of(tmp_path, image), tiny_checkpoint, range(SLICES))


def test_after_a_scroll_the_new_slice_is_the_next_one(engine: Engine, work: m.Predict) -> None:
    order = []
    for event in engine.handle(work):
        if isinstance(event, m.SliceDone):
            order.append(event.z)
            if event.done == 2:
                assert answers(engine, m.Reorder(7, work.id, 9)) == []
            if event.done == 5:
                answers(engine, m.Reorder(8, work.id, 4, axis=1))
            if event.done == 7:
                answers(engine, m.Reorder(9, 99, 12))  # not this run
    assert order[:2] == [0, 1]
    assert order[2:5] == [9, 8, 10]
    assert order[5:] == [4, 12, 2, 6, 3, 5, 7, 11]


def test_the_slice_scrolled_to_gets_its_maps_at_once(engine: Engine, work: m.Predict) -> None:
    for event in engine.handle(replace(work, received=False)):
        if isinstance(event, m.SliceDone) and event.done == 2:
            answers(engine, m.Reorder(7, work.id, 9))
    received = np.load(Path(work.out) / "received.npy")
    assert [z for z in range(SLICES) if received[z].any()] == [0, 9]


def test_a_stopped_run_goes_on_and_equals_an_unbroken_one(
    engine: Engine, work: m.Predict, tiny_checkpoint: Path, image: np.ndarray
) -> None:
    answers(engine, work, until=5)
    events = answers(Engine(), replace(work, id=2))
    assert done(events) == list(work.order), "those ready are told again, for a window anew"
    (note,) = (e for e in events if isinstance(e, m.Note))
    assert note.text.startswith("5 of 13 slices were finished before")
    assert [e.ready for e in events if isinstance(e, m.Started)] == [5]
    last = ended(events)
    assert (last.summary["done"], last.summary["computed"]) == (SLICES, SLICES - 5)
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(image)
    labels, probability = (np.load(last.outputs[k]) for k in ("labels", "probability"))
    for z in range(SLICES):
        expected = session.predict(z, TUNING)
        np.testing.assert_array_equal(labels[z], expected.labels)
        np.testing.assert_array_equal(probability[z], expected.probability)


@pytest.mark.parametrize(
    "change",
    [
        {"tuning": TUNING.replace(threshold=0.2)},
        {"tuning": TUNING.replace(cut=0.25)},
        {"tile": 24},
        {"image": "another"},
    ],
    ids=["threshold", "cut", "tile", "image"],
)
def test_another_question_starts_anew(
    engine: Engine, work: m.Predict, change: dict[str, object]
) -> None:
    answers(engine, work, until=5)
    if change.get("image"):
        change = {"image": replace(work.image, key="other")}
    events = answers(Engine(), replace(work, id=2, **change))  # type: ignore[arg-type]
    assert not [e for e in events if isinstance(e, m.Note)]
    last = ended(events)
    assert last.summary["computed"] == SLICES
    first = ended(answers(Engine(), replace(work, id=3)))
    assert first.summary["computed"] == SLICES, "the marks of the first question are gone, too"


def test_a_finished_run_computes_nothing_again(engine: Engine, work: m.Predict) -> None:
    answers(engine, work)
    events = answers(Engine(), replace(work, id=2))
    last = ended(events)
    assert last.summary["computed"] == 0
    assert done(events) == list(work.order)


def test_maps_that_were_left_out_are_made_when_they_are_asked_for(
    engine: Engine, work: m.Predict
) -> None:
    answers(engine, replace(work, received=False))
    answers(engine, replace(work, id=2))
    assert all(r.any() for r in np.load(Path(work.out) / "received.npy"))


CHILD = """
import sys, os
from napari_attnseg.control.messages import decode, SliceDone
from napari_attnseg.engine.service import Engine
work = decode(sys.stdin.buffer.read())
for event in Engine().handle(work):
    if isinstance(event, SliceDone):
        print(event.z, flush=True)
"""


def test_killed_in_the_middle_all_finished_slices_count(
    engine: Engine, work: m.Predict, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(m.encode(work))
    child.stdin.close()
    told = [int(child.stdout.readline()) for _ in range(4)]
    os.kill(child.pid, signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().split()]
    child.wait()
    marks = np.load(tmp_path / "out" / "done.npy")
    assert set(told) <= set(np.flatnonzero(marks)), "what was told is marked"
    undisturbed = ended(answers(Engine(), replace(work, out=str(tmp_path / "whole"))))
    last = ended(answers(engine, replace(work, id=2)))
    assert last.summary["computed"] == SLICES - np.count_nonzero(marks)
    for name, path in last.outputs.items():
        np.testing.assert_array_equal(np.load(path), np.load(undisturbed.outputs[name]))


def test_a_slice_is_marked_after_its_data(
    engine: Engine, work: m.Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that dies at any write leaves no slice marked whose files are not complete."""
    answers(Engine(), replace(work, out=str(Path(work.out).with_name("whole"))))
    true_write = SliceFile.write
    count = 0

    def dying(self: SliceFile, z: int, values: np.ndarray) -> None:
        nonlocal count
        count += 1
        if count == limit:
            raise KeyboardInterrupt
        true_write(self, z, values)

    monkeypatch.setattr(SliceFile, "write", dying)
    for limit in range(1, 12):
        count = 0
        out = Path(work.out).with_name(f"out{limit}")
        with pytest.raises(KeyboardInterrupt):
            answers(engine, replace(work, out=str(out)))
        for z in np.flatnonzero(np.load(out / "done.npy")):
            for name in ("labels", "probability", "step", "received"):
                whole = np.load(out.with_name("whole") / f"{name}.npy")
                np.testing.assert_array_equal(np.load(out / f"{name}.npy")[z], whole[z])


def test_large_volumes_keep_probability_in_half_the_bytes(
    engine: Engine, work: m.Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probability_type((600, 512, 512)) is np.float16
    assert probability_type((100, 512, 512)) is np.float32
    answers(engine, work)
    exact = np.load(Path(work.out) / "probability.npy")
    monkeypatch.setattr(results_module, "FULL_PRECISION_VOXELS", 1000)
    answers(engine, replace(work, out=work.out + "16"))
    half = np.load(Path(work.out + "16") / "probability.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, exact.astype(np.float16))


def test_results_are_not_memory_of_the_engine(tmp_path: Path) -> None:
    """64 MB written leave the process as large as it was."""
    import psutil

    file = SliceFile(tmp_path / "a.npy", (64, 1024, 1024), np.uint8)
    plane = np.ones((1024, 1024), np.uint8)
    file.write(0, plane)
    before = psutil.Process().memory_info().rss
    for z in range(64):
        file.write(z, plane)
    assert psutil.Process().memory_info().rss - before < 8 << 20
    assert file.read(63).all()
    with pytest.raises(IndexError):
        file.write(64, plane)
    file.close()
    assert np.load(tmp_path / "a.npy", mmap_mode="r")[1:].all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc gives memory back")
def test_freed_memory_between_kept_memory_goes_back() -> None:
    """As slices leave it: small blocks that stay between large ones that do not."""
    import psutil

    from napari_attnseg.engine.device import trim_heap

    kept, freed = [], []
    for _ in range(2000):
        kept.append(bytearray(1000))
        freed.append(bytearray(100_000))
    before = psutil.Process().memory_info().rss
    del freed
    trim_heap()
    assert before - psutil.Process().memory_info().rss > 150_000_000
    assert len(kept) == 2000


def test_a_large_volume_has_dear_maps_only_where_somebody_looked(
    engine: Engine, work: m.Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_attnseg.engine import volume_run

    monkeypatch.setattr(volume_run, "MAPS_WITH_RUN", SLICES - 1)
    for event in engine.handle(work):
        if isinstance(event, m.SliceDone) and event.done == 3:
            list(engine.handle(m.Reorder(7, work.id, 9)))
    received = np.load(Path(work.out) / "received.npy")
    assert [z for z in range(SLICES) if received[z].any()] == [0, 9]
    assert all(step.any() for step in np.load(Path(work.out) / "step.npy"))
    free = replace(work, out=work.out + "2", tuning=TUNING.replace(rule="paper"))
    answers(engine, free)
    assert all(r.any() for r in np.load(Path(free.out) / "received.npy"))
