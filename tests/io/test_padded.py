"""Zeros behind the end of a gzip file cost no time and change nothing."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image
from napari_attnseg.io.padded import end_of, open_gzip

VALUES = np.random.default_rng(0).integers(-900, 900, (7, 11, 13)).astype(np.int16)


def scan(path: Path, tail: bytes) -> Path:
    nib.save(nib.Nifti1Image(VALUES, np.diag([0.7, 0.9, 2.5, 1.0])), path)
    with path.open("ab") as file:
        file.write(tail)
    return path


@pytest.mark.parametrize("zeros", [0, 1, 63, 64, 65, 129, 4096, 30 << 20])
def test_a_tail_of_zeros_is_passed_over(zeros: int, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii.gz", bytes(zeros))
    before = path.read_bytes()
    began = time.perf_counter()
    found = read_image(path)
    assert time.perf_counter() - began < 3, "nobody goes through them one by one"
    np.testing.assert_array_equal(found.data, VALUES)
    assert path.read_bytes() == before


@pytest.mark.parametrize("length", [0, 3, 256, 70_000])
@pytest.mark.parametrize("zeros", [0, 5, 63, 66, 3 << 20])
def test_a_length_with_zero_bytes_stays_whole(length: int, zeros: int, tmp_path: Path) -> None:
    """The last field of gzip is the length: of small files its last bytes are zeros, too."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * length) + bytes(zeros))
    with open_gzip(path) as file:
        assert file.read(2) == b"x" * min(2, length)
        file.seek(0)
        assert file.read() == b"x" * length
    assert file.closed


def test_what_is_not_zero_behind_the_end_is_still_damage(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii.gz", bytes(100) + b"7" + bytes(100))
    assert end_of(path) is not None
    with pytest.raises(InputError, match="damaged"):
        read_image(path)


@pytest.mark.parametrize("size", [0, 1, 20, (1 << 20) + 3])
def test_a_file_of_nothing_but_zeros_has_an_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    assert end_of(path) == (64 if size > 64 else None)
