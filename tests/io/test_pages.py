"""Pages of file maps are given back; everything else is left alone."""

from __future__ import annotations

import gc
import mmap
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_attnseg.io import mapped, pages
from napari_attnseg.io.mapped import FileMap
from napari_attnseg.io.pages import follow, let_go

MIB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps its pages")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(32 * MIB // 8, dtype=np.int64).reshape(32, -1))
    return path


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20 * pages.SECONDS
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


@posix
def test_a_map_that_was_read_takes_no_memory_after(file: Path) -> None:
    whole = np.load(file, mmap_mode="r")
    view = whole.transpose()[::-1]
    before = resident()
    total = int(whole.sum())
    assert resident() - before > 24 * MIB
    assert let_go(np.asarray(view))
    assert resident() - before < 8 * MIB
    assert int(whole.sum()) == total, "the values are still there"


@posix
def test_what_was_written_into_a_file_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    made = np.lib.format.open_memmap(path, "w+", np.int64, (32, MIB // 8))
    before = resident()
    made[:] = np.arange(made.size).reshape(made.shape)
    made[3] *= -1
    assert resident() - before > 24 * MIB
    assert let_go(made[5:, ::2])
    assert resident() - before < 8 * MIB
    made[7, 0] = 12345  # and it can be written on
    expected = np.arange(made.size).reshape(made.shape)
    expected[3] *= -1
    expected[7, 0] = 12345
    for found in (made, np.load(path), np.load(path, mmap_mode="r+")):
        assert np.array_equal(found, expected)


def test_what_has_no_file_behind_it_keeps_its_values(file: Path) -> None:
    anonymous = np.frombuffer(mmap.mmap(-1, 8 * MIB), np.uint8)
    anonymous[:] = 7
    private = np.load(file, mmap_mode="c")
    private[0] = 3
    plain = np.ones(8 * MIB)
    for array in (anonymous, private, private[2:], plain, plain[None].T, None, "text"):
        assert follow(array) is array
        assert not let_go(array)
    assert (anonymous == 7).all()
    assert (private[0] == 3).all()


@posix
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_maps_that_are_followed_shrink_by_themselves(file: Path, mode: str) -> None:
    whole = follow(np.load(file, mmap_mode=mode))
    before = resident()
    total = int(whole.sum())
    assert soon(lambda: resident() - before < 8 * MIB)
    assert int(whole.sum()) == total


@posix
def test_an_image_in_its_own_file_is_followed(file: Path) -> None:
    image = FileMap(file, np.int64, 128, (32, MIB // 8), "C")
    before = resident()
    assert int(image.sum()) == int(np.load(file).sum())
    assert soon(lambda: resident() - before < 8 * MIB)


@posix
def test_who_reads_it_slice_by_slice_holds_a_part_of_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "follow", lambda array: array)
    monkeypatch.setattr(pages, "READ_BYTES", 4 * MIB)
    image = FileMap(file, np.int64, 128, (32, MIB // 8), "C")
    view, before, most, total = image.T, resident(), 0, 0  # slicing it would copy it
    for z in range(32):
        total += int(view[:, z].sum())
        most = max(most, resident())
    assert most - before < 12 * MIB
    assert total == int(np.load(file).sum())


def keepers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "attnseg-pages"]


@posix
def test_nobody_looks_after_maps_that_are_gone_or_small(tmp_path: Path, file: Path) -> None:
    gc.collect()
    assert soon(lambda: not keepers())
    np.save(tmp_path / "small.npy", np.zeros(MIB))
    with open(tmp_path / "small.npy", "r+b") as cut:
        cut.truncate(MIB)
    small = follow(np.memmap(tmp_path / "small.npy", np.uint8, "r"))
    assert not keepers()
    large = follow(np.load(file, mmap_mode="r"))
    again = follow(np.load(file, mmap_mode="r"))
    assert len(keepers()) == 1
    del large
    time.sleep(1.5 * pages.SECONDS)
    assert len(keepers()) == 1
    del again
    assert soon(lambda: not keepers())
    assert len(small) == MIB
