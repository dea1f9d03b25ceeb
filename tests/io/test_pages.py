"""Pages of read-only file maps are given back; everything else is left alone."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_attnseg.io.pages import let_go

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(32 * MIB // 8, dtype=np.int64).reshape(32, -1))
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps its pages")
def test_a_map_that_was_read_takes_no_memory_after(file: Path) -> None:
    whole = np.load(file, mmap_mode="r")
    view = whole.transpose()[::-1]
    before = psutil.Process().memory_info().rss
    total = int(whole.sum())
    assert psutil.Process().memory_info().rss - before > 24 * MIB
    assert let_go(np.asarray(view))
    assert psutil.Process().memory_info().rss - before < 8 * MIB
    assert int(whole.sum()) == total, "the values are still there"


def test_what_has_no_file_behind_it_keeps_its_values(file: Path) -> None:
    anonymous = np.frombuffer(mmap.mmap(-1, MIB), np.uint8)
    anonymous[:] = 7
    private = np.load(file, mmap_mode="c")
    private[0] = 3
    written = np.load(file, mmap_mode="r+")
    plain = np.ones(5)
    for array in (anonymous, private, written, plain, plain[None].T, None, "text"):
        assert not let_go(array)
    assert (anonymous == 7).all()
    assert (private[0] == 3).all()
