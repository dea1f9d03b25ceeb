"""Strokes that come quicker than they can be written: the newest is on the disk in the end."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control import handover
from napari_attnseg.control.handover import Labelled, NewestSaved, Pixels
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.errors import InputError


@pytest.fixture
def scratch(tmp_path: Path) -> Any:
    made = Scratch(tmp_path)
    yield made
    made.close()


def until(done: Any) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_newest_of_many_is_written_last_and_not_by_the_window(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "AT_ONCE_BYTES", 0)
    save, threads = scratch.save, []

    def watched(array: Any, name: str) -> Path:
        threads.append(threading.current_thread())
        return save(array, name)

    monkeypatch.setattr(scratch, "save", watched)
    saver = NewestSaved(scratch, lambda error: pytest.fail(str(error)))
    for k in range(20):
        saver.put(np.full((5, 7, 11), k, np.uint8), "labels")
    until(lambda: not saver._running)
    assert np.load(scratch.path / "labels.npy").max() == 19
    assert 1 <= len(threads) <= 20
    assert threading.main_thread() not in threads


def test_what_cannot_be_written_is_told(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "AT_ONCE_BYTES", 0)
    scratch.cap_bytes = 10
    told: list[str] = []
    saver = NewestSaved(scratch, lambda error: told.append(str(error)))
    saver.put(np.zeros((5, 7, 11), np.uint8), "labels")
    until(lambda: told)
    assert "scratch space" in told[0]


def test_an_image_and_its_labels_travel_together(scratch: Scratch) -> None:
    image, labels = np.arange(3 * 5 * 7, dtype=np.float32).reshape(3, 5, 7), np.ones((3, 5, 7), int)
    cargo = Labelled(Pixels(image), labels, "painted")
    assert cargo.nbytes == image.nbytes + labels.nbytes
    ref, path = cargo.save(scratch)
    assert ref is not None
    np.testing.assert_array_equal(np.load(ref.path), image)
    np.testing.assert_array_equal(np.load(path), labels)
    again = Labelled(ref, labels, "painted")
    assert (again.nbytes, again.save(scratch)) == (labels.nbytes, (ref, path))
    with pytest.raises(InputError, match="expected"):
        Labelled(Pixels(image[0]), labels, "painted").save(scratch)
