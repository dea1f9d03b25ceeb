"""Memory of results: zeros of any kind that behave like numpy's own."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.asides import whole_file
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.errors import InputError
from napari_attnseg.viewer.memory import DISK_BYTES, LARGE_BYTES, empty_volume, volume_store
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("shape", [(7, 11, 13), (37, 331, 353)])
def test_zeros_to_be_written(shape: tuple[int, ...], dtype: Any) -> None:
    made = empty_volume(shape, dtype)
    assert (made.shape, made.dtype) == (shape, np.dtype(dtype))
    assert made.flags.c_contiguous
    assert not made.any()
    made[3, 5] = 2
    assert made.sum(dtype=np.float64) == 2 * shape[2]
    assert made.reshape(-1).base is not None, "a view: nothing is copied"


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted as Linux tells them")
def test_a_large_one_takes_memory_only_where_it_is_written() -> None:
    import psutil

    one = psutil.Process()
    before = one.memory_info().rss
    made = empty_volume((512, 512, 512), np.float32)
    assert made.nbytes == 1 << 29 > LARGE_BYTES
    made[100] = 1.0  # 1 MiB
    grown = one.memory_info().rss - before
    assert (1 << 20) <= grown < (1 << 23)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(tmp_path / "scratch")
    yield made
    made.close()


def test_a_small_store_is_memory(scratch: Scratch) -> None:
    assert not isinstance(volume_store((7, 11, 13), np.uint8, scratch), np.memmap)
    assert not scratch.used_bytes


def test_a_large_store_is_a_file_that_goes_with_its_last_view(scratch: Scratch) -> None:
    made = volume_store((70, 512, 500), np.uint8, scratch)
    assert (made.shape, made.dtype) == ((70, 512, 500), np.dtype(np.uint8))
    assert not made[::7, ::31, ::31].any()
    made[3, 5] = 2
    (path,) = scratch.path.rglob("*.npy")
    assert np.load(path, mmap_mode="r")[3, 5].sum() == 2 * 500, "others may map it"
    blocks = path.stat().st_blocks * 512 if hasattr(path.stat(), "st_blocks") else made.nbytes
    assert blocks >= made.nbytes, "its room is reserved: a full disk is met now, not at a pixel"
    view = np.asarray(made).reshape(-1)
    del made
    gc.collect()
    assert path.is_file()
    assert view[3 * 512 * 500 + 5 * 500] == 2
    del view
    gc.collect()
    assert not path.exists()


def test_no_room_is_said_before_anything_is_there(tmp_path: Path) -> None:
    small = Scratch(tmp_path / "small", cap_bytes=DISK_BYTES)
    with pytest.raises(InputError, match="scratch space"):
        volume_store((70, 512, 500), np.uint8, small)
    assert not list(small.path.iterdir())


def test_a_full_disk_is_a_sentence(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match="No space left on device"):
        volume_store((70, 512, 500), np.uint8, scratch)
    assert not list(scratch.path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux tells it")
def test_layers_of_a_large_volume_take_no_memory_of_the_window(scratch: Scratch) -> None:
    """Labels, what the model says and the probability of 64 slices: 80 MB, all written."""
    viewer = ViewerModel()
    image = viewer.add_image(
        np.broadcast_to(np.uint8(1), (64, 512, 512)), name="ct", contrast_limits=(0, 2)
    )
    layers = ResultLayers(viewer, image, "tiny", scratch=scratch)
    layers.ensure_labels()
    layers.ensure_map("probability")
    plane = np.ones((512, 512), np.uint8)
    before = _anonymous()
    for z in range(64):
        layers.write_labels(z, plane)
        layers.write("probability", z, plane)
    grown = _anonymous() - before
    assert layers.labels is not None
    assert layers.labels.data[63, 511, 511] == layers.maps["probability"].data[63, 511, 511] == 1
    assert layers.edits is not None
    assert layers.edits.count == 0
    assert grown < 8 << 20


def test_numbered_objects_of_a_large_volume_are_a_file(scratch: Scratch) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(
        np.broadcast_to(np.uint8(1), (33, 512, 512)), name="ct", contrast_limits=(0, 2)
    )
    layers = ResultLayers(viewer, image, "tiny", scratch=scratch)
    ids = np.zeros((33, 512, 512), np.uint16)
    ids[30, 500, 7] = 9
    shown = layers.show_objects(ids)
    assert isinstance(shown.data, np.memmap)
    assert np.array_equal(shown.data, ids)


def _anonymous() -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("RssAnon:") + 1]) << 10


def test_objects_are_counted_in_the_file_of_the_labels(scratch: Scratch) -> None:
    made = volume_store((70, 512, 500), np.uint8, scratch)
    assert whole_file(made) == Path(str(made.filename))
    for other in (made[1:], made[:, ::2], np.asarray(made), np.zeros((3, 4, 5), np.uint8)):
        assert whole_file(other) is None
    made[3, 5:9, 7:11] = made[60, 5:9, 7:11] = 1
    live = LiveController(InProcessClient(), scratch)
    seen: list[Any] = []
    live.objects_done.connect(lambda event, ids: seen.append((event.count, ids[60, 6, 8])))
    before = scratch.used_bytes
    live.split_objects(made)
    assert seen == [(2, 2)]
    assert scratch.used_bytes == before, "the ids go when they were told"
