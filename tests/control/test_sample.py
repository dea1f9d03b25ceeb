"""One slice that stands for a volume, while only its cost is asked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control.handover import Pixels, Sample
from napari_attnseg.control.scratch import Scratch


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">f4", "bool"])
@pytest.mark.parametrize("rgb", [False, True])
def test_it_is_the_slice_at_every_place(tmp_path: Path, dtype: str, rgb: bool) -> None:
    shape = (7, 11, 13, *([3] if rgb else []))
    array = np.random.default_rng(1).integers(0, 90, shape).astype(dtype)
    scratch = Scratch(tmp_path)
    sample = Sample(Pixels(array, rgb, (True, False, True), (3.0, 1.0, 1.0)), 4)
    assert sample.nbytes == array[4].nbytes
    ref = sample.save(scratch)
    found = ref.open()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, np.repeat(array[4:5], 7, axis=0))
    assert (ref.rgb, ref.flips, ref.spacing_mm) == (rgb, (True, False, True), (3.0, 1.0, 1.0))
    assert os.stat(ref.path).st_size < array[4].nbytes + 200
    scratch.close()


def test_the_next_one_takes_its_place(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    first = Sample(Pixels(array), 1).save(scratch)
    assert Sample(Pixels(array), 1).save(scratch) == first
    longer = Sample(Pixels(np.concatenate([array, array])), 1).save(scratch)
    assert longer.key != first.key, "caches know it from the shorter one"
    second = Sample(Pixels(array[:, ::-1, ::2]), 3).save(scratch)
    np.testing.assert_array_equal(second.open()[0], array[3, ::-1, ::2])
    assert not Path(first.path).exists()
    scratch.close()
