"""A file that could hold what it claims, but no memory could: refused before anything is taken."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image, read_mask

SIDE = 16384
DEFLATE = 1000
"""Bytes that one packed byte may stand for."""


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_packed_volume_larger_than_memory_is_refused_at_once(tmp_path: Path, read) -> None:
    slices = 2 * psutil.virtual_memory().total // SIDE**2 + 1
    header = nib.Nifti1Header()
    header.set_data_shape((SIDE, SIDE, slices))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.diag([-1.0, -1, 1, 1]), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = tmp_path / "giant.nii.gz"
    with path.open("wb") as file:
        file.write(gzip.compress(header.binaryblock + bytes(1 << 20)))
        file.truncate(slices * SIDE**2 // DEFLATE + (1 << 20))  # a hole: takes no room
    with pytest.raises(InputError, match="of memory but only"):
        read(path)
