"""A mask never takes the place of the image that it was made from, by its name or by a link."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume


def image(folder: Path, name: str) -> Volume:
    path = folder / name
    pixels = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(np.uint8)
    if name.endswith(".png"):
        Image.fromarray(pixels[0]).save(path)
    elif name.endswith(".tif"):
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        nib.save(nib.Nifti1Image(pixels, np.diag([1, 1, 2.0, 1])), path)
    return read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz"])
def test_by_its_name_and_by_a_link(tmp_path: Path, name: str) -> None:
    source = image(tmp_path, name)
    before = (tmp_path / name).read_bytes()
    names = [name]
    if os.name == "posix":
        (tmp_path / f"link_{name}").symlink_to(name)
        names.append(f"link_{name}")
    for target in names:
        with pytest.raises(ExportError, match="is the image that the mask was made from"):
            write_mask(tmp_path / target, (source.view % 3).astype(np.uint8), source)
        assert (tmp_path / name).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_mask_of_ours_is_written_again_over_itself(tmp_path: Path) -> None:
    """Opened, painted on and saved: it is the same work."""
    source = image(tmp_path, "a.nii")
    out = tmp_path / "m.nii.gz"
    write_mask(out, (source.view % 3).astype(np.uint8), source)
    opened = read_image(out)
    write_mask(out, (opened.view % 2).astype(np.uint8), opened)
    assert np.array_equal(read_mask(out).view, source.view % 3 % 2)
