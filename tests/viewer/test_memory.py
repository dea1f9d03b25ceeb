"""Memory of results: zeros of any kind that behave like numpy's own."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from napari_attnseg.viewer.memory import LARGE_BYTES, empty_volume


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
