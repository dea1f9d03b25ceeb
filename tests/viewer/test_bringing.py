"""Run with a large volume: the window goes on while the pixels are hashed and copied."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.messages import AttentionRow, Retune
from napari_attnseg.control.questions import LevelMaps
from napari_attnseg.control.scratch import pixel_key
from napari_attnseg.viewer.bringing import AT_ONCE_BYTES
from napari_attnseg.viewer.hub import Hub

pytestmark = pytest.mark.gui
SHAPE = (200, 500, 500)


class Window:
    """A viewer's model with a hub, and the queue of what is to be done in the main thread."""

    def __init__(self, checkpoint: str) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.viewer = ViewerModel()
        self.hub = Hub(self.viewer, self.calls.put)
        self.hub.set_model(checkpoint)
        self.events: list[Any] = []
        for signal in (self.hub.live.finished, self.hub.live.failed):
            signal.connect(self.events.append)

    def add(self, data: np.ndarray) -> Any:
        layer = self.viewer.add_image(data, contrast_limits=(0, 255), name="volume")
        self.hub.set_source(layer)
        return layer

    def wait(self, until: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, "it did not happen"
            try:
                self.calls.get(timeout=0.05)()
            except queue.Empty:
                continue


@pytest.fixture
def window(tiny_checkpoint: Any) -> Iterator[Window]:
    made = Window(str(tiny_checkpoint))
    yield made
    made.hub.close()


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    data[:, 100:300, 100:350] = 200
    assert data.nbytes > AT_ONCE_BYTES
    return data


def test_run_does_not_hold_the_window(window: Window, volume: np.ndarray) -> None:
    layer, live = window.add(volume), window.hub.live
    began = time.thread_time()
    pixel_key(layer.data)
    hashing = time.thread_time() - began
    began = time.thread_time()
    window.hub.run()
    assert time.thread_time() - began < hashing / 4
    assert live.state.busy
    assert live.state.image is None
    window.wait(lambda: live.state.image is not None)
    assert live.state.busy
    assert live.state.image.key == pixel_key(volume)
    seen: list[Any] = []
    live.slice_done.connect(seen.append)
    window.wait(lambda: bool(seen))
    assert seen[0].z == window.hub.visible_z()
    window.hub.cancel()
    window.wait(lambda: not live.state.busy)


def test_cancel_while_the_image_is_on_its_way(window: Window, volume: np.ndarray) -> None:
    window.add(volume)
    window.hub.run()
    window.hub.cancel()
    assert not window.hub.live.state.busy
    assert [event.reason for event in window.events] == ["cancelled"]
    while any(t.name == "attnseg-handover" for t in threading.enumerate()):
        time.sleep(0.01)
    while not window.calls.empty():
        window.calls.get()()
    assert window.hub.live.state.image is None, "what was cancelled does not come later"
    assert window.hub.client.pid is None, "nothing was asked of the engine"


def test_another_image_makes_the_first_unwanted(window: Window, volume: np.ndarray) -> None:
    window.add(volume)
    window.hub.run()
    small = np.zeros((40, 40), np.uint8)
    window.add(small)
    window.hub.prepare()
    while any(t.name == "attnseg-handover" for t in threading.enumerate()):
        time.sleep(0.01)
    while not window.calls.empty():
        window.calls.get()()
    assert window.hub.live.state.shape == (1, 40, 40)


def test_every_question_lets_a_large_image_come_behind_the_window(
    window: Window, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed_by: list[str] = []

    def noted(array: Any) -> str:
        hashed_by.append(threading.current_thread().name)
        return pixel_key(array)

    monkeypatch.setattr("napari_attnseg.control.scratch.pixel_key", noted)
    sent: list[Any] = []
    monkeypatch.setattr(window.hub.client, "send", sent.append)
    window.add(volume)
    window.hub.tune(threshold=0.3)
    window.hub.tune(threshold=0.4)
    window.hub.ask_row(120, 130)
    window.hub.levels.look()
    assert sent == []
    assert window.hub.live.state.busy
    window.wait(lambda: not window.hub.live.state.busy)
    assert hashed_by == ["attnseg-handover"], "once, and not in the window's thread"
    retune, row, maps = sent
    assert (type(retune), retune.tuning.get("threshold")) == (Retune, 0.4)
    assert (type(row), row.y, row.x) == (AttentionRow, 120, 130)
    assert type(maps) is LevelMaps
    assert retune.image == row.image == maps.image == window.hub.live.state.image


def test_pixels_that_are_replaced_on_their_way_are_old(window: Window, volume: np.ndarray) -> None:
    layer, live = window.add(volume), window.hub.live
    window.hub.bring(lambda: None)
    layer.data = np.flip(volume, 2)
    window.wait(lambda: not live.state.busy)
    assert live.state.image is not None
    assert live.state.image.key == pixel_key(layer.data)


def test_a_full_scratch_is_one_sentence(window: Window, volume: np.ndarray) -> None:
    window.add(volume)
    window.hub.scratch.cap_bytes = volume.nbytes // 2
    window.hub.run()
    window.wait(lambda: bool(window.events))
    (failed,) = window.events
    assert failed.kind == "InputError"
    assert "scratch space" in failed.message
    assert not window.hub.live.state.busy


def test_pixels_that_cannot_be_read_are_one_sentence(window: Window) -> None:
    dask = pytest.importorskip("dask.array")

    def broken(block: np.ndarray) -> np.ndarray:
        raise OSError("the disk went away")

    lazy = dask.zeros(SHAPE, dtype=np.uint8, chunks=(8, 500, 500)).map_blocks(
        broken, dtype=np.uint8, meta=np.zeros((0, 0, 0), np.uint8)
    )
    from napari_attnseg.control.handover import Handover, Pixels

    told: list[Exception] = []
    handover = Handover(window.hub.scratch, window.calls.put)
    handover.start(Pixels(lazy), lambda ref: None, told.append)
    window.wait(lambda: bool(told))
    assert "the disk went away" in str(told[0])
    assert not handover.busy


def test_a_closed_layer_leaves_no_image_in_scratch(window: Window) -> None:
    hub, pixels = window.hub, np.full((40, 50), 90, np.uint8)
    first, twin = window.add(pixels), window.viewer.add_image(pixels.copy(), name="twin")
    hub.prepare()
    hub.set_source(twin)
    hub.prepare()
    images = lambda: list(hub.scratch.path.glob("image-*.npy"))  # noqa: E731
    assert len(images()) == 1
    window.viewer.layers.remove(first)
    assert len(images()) == 1, "the twin still needs it"
    window.viewer.layers.remove(twin)
    assert not images()
    assert hub.live.state.image is None
