"""``predict --axis``: the mask of averaged axes, what the file says of it, and making it again."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import run

from napari_attnseg.engine.axes import segment_along
from napari_attnseg.engine.reproduce import reproduce
from napari_attnseg.engine.session import Session
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.image import read_image


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Oblique, anisotropic, 33 x 21 x 7 voxels."""
    affine = np.array([[-1.9, 0.3, 0, 40], [0.3, 1.9, 0.1, -20], [0, -0.1, 3, 7], [0, 0, 0, 1.0]])
    pixels = np.random.default_rng(1).normal(0, 99, (33, 21, 7)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(pixels, affine), path)
    return path


@pytest.mark.parametrize("axis", ["sagittal", "all"])
def test_a_mask_of_other_axes(axis: str, tiny_checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    session = Session(tiny_checkpoint, "cpu")
    source = read_image(scan)
    session.set_image(source)
    chances = np.stack([a.probability for _, a in segment_along(session, axis)])
    cut = round(float(np.median(chances)), 4)
    out = tmp_path / "out"
    wish = ("--axis", axis, "--cut", cut, "--out", out)
    result = run("predict", tiny_checkpoint, scan, *wish)
    assert result.exit_code == 0, result.output
    mask = out / "scan_mask.nii.gz"
    found = np.asarray(nib.load(mask).dataobj)
    np.testing.assert_array_equal(found, source.to_file_order(chances >= cut))
    assert 0.2 < found.mean() < 0.8
    assert comment_of(mask)["provenance"]["axis"] == axis
    assert [p.name for p in out.iterdir()] == ["scan_mask.nii.gz"]
    assert reproduce(mask, scan, str(tiny_checkpoint)).equal
    again = run("predict", tiny_checkpoint, scan, *wish)
    assert "kept" in again.output
    other = run("predict", tiny_checkpoint, scan, "--cut", cut, "--out", out)
    assert "kept, " not in other.output
    assert not np.array_equal(np.asarray(nib.load(mask).dataobj), found)


def test_what_has_no_other_axis_is_told(tiny_checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    from PIL import Image

    flat = tmp_path / "flat.png"
    Image.fromarray(np.zeros((33, 21), np.uint8)).save(flat)
    result = run("predict", tiny_checkpoint, flat, "--axis", "all", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "one slice" in result.output
    wrong = run("predict", tiny_checkpoint, scan, "--axis", "up", "--out", tmp_path / "o")
    assert "axial, coronal, sagittal, all" in str(wrong.exception) + wrong.output
