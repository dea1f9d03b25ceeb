"""Labels are counted behind the window, the newest last."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from napari_attnseg.widgets import _counting
from napari_attnseg.widgets._counting import LabelCounter

pytestmark = pytest.mark.gui


def labels_of(value: int) -> np.ndarray:
    made = np.ones((3, 7, 11), np.uint8)
    made[1, :2] = value
    return made


def test_small_labels_are_counted_at_once() -> None:
    told: list[Any] = []
    counter = LabelCounter(lambda count, labels: told.append(count.counts))
    counter.count(labels_of(2), 2, True)
    assert told == [(3 * 77 - 22, 22)]
    assert not counter.busy


def test_large_ones_behind_the_window_and_only_the_newest_is_told(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_counting, "AT_ONCE_VOXELS", 0)
    go, counted = threading.Event(), _counting.count_labels
    threads: list[threading.Thread] = []

    def slow(*given: Any) -> Any:
        threads.append(threading.current_thread())
        assert go.wait(30)
        return counted(*given)

    monkeypatch.setattr(_counting, "count_labels", slow)
    told: list[Any] = []
    counter = LabelCounter(lambda count, labels: told.append((count.counts, labels)))
    last = labels_of(3)
    for labels in (labels_of(1), labels_of(2), last):
        counter.count(labels, 3, True)
    assert counter.busy
    assert not told
    go.set()
    qtbot.waitUntil(lambda: not counter.busy, timeout=30_000)
    assert [counts for counts, _ in told] == [(3 * 77 - 22, 0, 22)]
    assert told[0][1] is last
    assert len(threads) == 2, "the one between was never begun"
    assert threading.main_thread() not in threads


def test_a_dropped_count_is_not_told(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_counting, "AT_ONCE_VOXELS", 0)
    told: list[Any] = []
    counter = LabelCounter(lambda count, labels: told.append(count))
    counter.count(labels_of(2), 2, True)
    counter.drop()
    qtbot.waitUntil(lambda: not counter._running, timeout=30_000)
    assert not told
