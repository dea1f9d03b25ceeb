"""The Segment dock before Run: doubts about the image, and what the run will cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.volumes import Forecasted
from napari_attnseg.viewer.before_run import (
    WINDOW_BYTES,
    cost_words,
    disk_bytes,
    disk_words,
    duration,
    memory_words,
)
from napari_attnseg.viewer.hub import Hub, hub_for
from napari_attnseg.widgets._before import SETTLE_MS, CostLine, DoubtsBlock

pytestmark = pytest.mark.gui
LARGE = (600, 512, 512)


def test_disk_is_what_the_files_of_a_run_take() -> None:
    voxels = 600 * 512 * 512
    # the engine's labels and half precision probability, and the same and the model's labels here
    assert disk_bytes(LARGE) == voxels * (1 + 2) + voxels * (1 + 1 + 2)
    assert disk_bytes((3, 40, 40)) == 3 * 40 * 40 * 5, "small layers lie in memory"
    assert disk_words(LARGE, disk_bytes(LARGE)) == ""
    assert "1.0 GB of disk, but 512 MB are free" in disk_words(LARGE, 512 << 20)


def test_the_cost_in_words() -> None:
    event = Forecasted(memory_bytes=(1200 << 20) - WINDOW_BYTES, seconds=241.0)
    assert cost_words(event, LARGE) == "About 1.2 GB of memory, 1.0 GB of disk, 4 min."
    kept = replace(event, stage_bytes=3 << 30, stage_limit=8 << 30)
    assert cost_words(kept, LARGE) == (
        "About 1.2 GB of memory, 1.0 GB of disk, "
        "3.0 GB (limit 8.0 GB) more for values moved later, 4 min."
    )
    small = Forecasted(memory_bytes=(500 << 20) - WINDOW_BYTES, seconds=None)
    assert cost_words(small, (32, 100, 122)) == "About 500 MB of memory."
    assert [duration(s) for s in (0.2, 8.4, 89, 95, 5000, 9000)] == [
        "1 s",
        "8 s",
        "89 s",
        "2 min",
        "83 min",
        "2.5 h",
    ]
    assert memory_words(event) == "", "nobody looked at what is free"
    assert memory_words(Forecasted(memory_bytes=1 << 30, memory_free=2 << 30)) == ""
    short = memory_words(Forecasted(memory_bytes=3 << 30, memory_free=2 << 30))
    assert "3.1 GB of memory, but 2.0 GB are free" in short


@pytest.fixture
def hub(qtbot: Any) -> Any:
    viewer = ViewerModel()
    made: Hub = hub_for(viewer)
    made.set_model("ct_organs_smooth_unet")
    yield made
    made.close()


def scan(shape: tuple[int, int, int] = (5, 40, 48)) -> np.ndarray:
    hu = np.full(shape, -1000, np.int16)
    hu[:, 8:30, 8:40] = np.random.default_rng(0).normal(40, 50, (shape[0], 22, 32))
    return hu


def add(hub: Hub, data: np.ndarray) -> None:
    limits = (float(data.min()), float(data.max()))
    layer = hub.viewer.add_image(data, contrast_limits=limits, scale=(4, 3, 3)[-data.ndim :])
    hub.set_source(layer)


def test_doubts_follow_image_and_model(hub: Hub, qtbot: Any) -> None:
    block = DoubtsBlock(hub)
    qtbot.addWidget(block)
    assert block.isHidden()
    add(hub, scan())
    assert block.isHidden()
    assert [d.severity for d in block.doubts] == ["note"], "notes are not warnings"
    add(hub, (scan() + 1024).astype(np.uint16))
    assert not block.isHidden()
    assert block.words.text().startswith("No value is below 24: HU were shifted")
    hub.set_model("nuclei_smooth_unet")
    assert block.isHidden()


def test_a_large_image_is_looked_at_behind_the_window(hub: Hub, qtbot: Any) -> None:
    block = DoubtsBlock(hub)
    qtbot.addWidget(block)
    large = np.zeros((40, 512, 512), np.uint8)
    large[:, 100:300] = 200
    add(hub, large)
    assert block.isHidden()
    qtbot.waitUntil(lambda: not block.isHidden(), timeout=5000)
    assert "8-bit picture" in block.words.text()
    add(hub, large[:39])
    add(hub, scan())
    qtbot.wait(100)
    assert block.isHidden(), "an answer about an earlier choice is let go"


def test_the_cost_is_told_and_forgotten(hub: Hub, qtbot: Any) -> None:
    line = CostLine(hub)
    qtbot.addWidget(line)
    add(hub, scan())
    event = Forecasted(memory_bytes=400 << 20, seconds=12.0, memory_free=8 << 30)
    hub.live.forecasted.emit(event)
    assert line.words.text() == "About 500 MB of memory, 12 s."
    hub.set_model("nuclei_smooth_unet")
    assert line.isHidden()
    hub.live.forecasted.emit(Forecasted(memory_bytes=9 << 30, seconds=12.0, memory_free=8 << 30))
    assert line.words.text().startswith("This needs about 9.1 GB of memory, but 8.0 GB are free")
    hub.scratch.cap_bytes = 1000
    add(hub, scan((50, 400, 400)))
    line.again()
    qtbot.waitUntil(lambda: not line.isHidden(), timeout=3000)
    assert line.words.text().startswith("The results need 69 MB of disk, but 1 MB are free")


def test_slices_along_other_axes_cost_room_for_what_is_gathered(hub: Hub, qtbot: Any) -> None:
    """By hand: four classes, 2 bytes each, of 251 slices of 512 x 512; 3 and 4 bytes as ever."""
    line = CostLine(hub)
    qtbot.addWidget(line)
    data = np.zeros((251, 512, 512), np.int8)
    data[0, 0, 0] = 1
    add(hub, data)
    event = Forecasted(memory_bytes=400 << 20, memory_free=8 << 30)
    hub.live.forecasted.emit(event)
    assert line.words.text() == "About 500 MB of memory, 439 MB of disk."
    hub.live.set_along("all")
    assert line.isHidden(), "what was said is not about it"
    hub.live.forecasted.emit(event)
    assert line.words.text() == "About 500 MB of memory, 941 MB of disk."
    hub.scratch.cap_bytes = 500 << 20
    hub.live.forecasted.emit(event)
    assert line.words.text().startswith("The results need 941 MB of disk, but 500 MB are free")


def test_single_images_cost_nothing_worth_a_line(hub: Hub, qtbot: Any) -> None:
    line = CostLine(hub)
    qtbot.addWidget(line)
    add(hub, scan()[0])
    hub.live.forecasted.emit(Forecasted(memory_bytes=400 << 20, seconds=12.0))
    assert line.isHidden()


def test_an_image_that_was_there_first_is_measured_once_the_engine_is_awake(
    hub: Hub, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, scan())
    line = CostLine(hub)
    qtbot.addWidget(line)
    asked: list[bool] = []
    monkeypatch.setattr(hub.live, "request_forecast", lambda: asked.append(True))
    qtbot.waitUntil(lambda: not line._settle.isActive(), timeout=3000)
    assert hub.client.pid is None, "nobody to ask yet"
    assert not asked
    hub.client.start()
    hub.live.described.emit({})
    qtbot.waitUntil(lambda: bool(asked), timeout=3000)
    hub.live.described.emit({})
    qtbot.wait(SETTLE_MS + 200)
    assert asked == [True], "once is enough"


def test_the_cost_of_an_image_that_is_not_at_hand_is_told(
    hub: Hub, qtbot: Any, tiny_checkpoint: Any
) -> None:
    """With a real engine. One slice is read; the figures are of all of them."""
    import dask.array as da

    read: set[int] = set()

    def plane(block_info: Any = None) -> np.ndarray:
        z = block_info[None]["chunk-location"][0]
        read.add(z)
        return scan((1, 256, 257)) + z

    shape = (80, 256, 257)
    chunks = ((1,) * shape[0], (256,), (257,))
    data = da.map_blocks(plane, chunks=chunks, dtype=np.int16, meta=np.empty((0, 0, 0), np.int16))
    hub.set_model(str(tiny_checkpoint))
    line = CostLine(hub)
    qtbot.addWidget(line)
    hub.viewer.add_image(data, contrast_limits=(-160, 240))
    assert not hub.at_hand
    hub.viewer.dims.set_current_step(0, 33)
    qtbot.waitUntil(lambda: not line._settle.isActive(), timeout=3000)
    hub.client.start()
    told: list[Forecasted] = []
    hub.live.forecasted.connect(told.append)
    read.clear()
    with qtbot.waitSignal(hub.live.forecasted, timeout=60000):
        line.again()
    assert line.words.text().startswith("About "), line.words.text()
    assert read == {33}
    assert hub.live.state.image is None, "nothing was brought"
    assert not hub.at_hand
    assert told[0].seconds
    voxels = 80 * 256 * 257
    assert told[0].disk_bytes > voxels * (1 + 4), "labels and probability of every slice"
    files = [f for f in hub.scratch.path.glob("*.npy") if f.stat().st_size > 256 * 257 * 2 + 200]
    assert not files, "no more than a slice was copied"
    hub.set_source(None)
    assert line.isHidden()


def test_what_a_run_told_is_not_replaced_by_its_cost(
    hub: Hub, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, scan())
    line = CostLine(hub)
    qtbot.addWidget(line)
    asked: list[bool] = []
    monkeypatch.setattr(hub.live, "request_forecast", lambda: asked.append(True))
    qtbot.waitUntil(lambda: not line._settle.isActive(), timeout=3000)
    hub.client.start()
    hub.live.busy_changed.emit(True)
    hub.live.busy_changed.emit(False)
    hub.live.described.emit({})
    qtbot.wait(SETTLE_MS + 200)
    assert not asked
