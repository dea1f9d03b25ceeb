"""``predict`` on DICOM folders and OME-Zarr: one input each, the mask where the image lies."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from dicom_series import positions, turned, write_series
from napari_attnseg.cli import app
from napari_attnseg.cli._inputs import collect, targets
from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image, read_mask
from zarr_images import ranks, write

TURN = turned("x", 21) @ turned("z", -33)


def scan(folder: Path, seed: int = 0, **tags) -> list[Path]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 4095, (3, 33, 41), np.uint16)
    return write_series(folder, pixels, positions(3, TURN[:, 2] * 2.5), TURN, **tags)


def predict(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


def test_a_dicom_folder_is_one_input_in_exact_space(tmp_path, tiny_checkpoint) -> None:
    scan(tmp_path / "p.1")
    done = predict(tiny_checkpoint, tmp_path / "p.1", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    mask = nib.load(tmp_path / "out" / "p.1_mask.nii.gz")
    source = read_image(tmp_path / "p.1")
    np.testing.assert_allclose(mask.affine, source.geometry.affine, rtol=1e-6, atol=1e-5)
    assert mask.shape == source.data.shape
    again = predict(tiny_checkpoint, tmp_path / "p.1", "--out", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert "kept" in again.output


def test_a_zarr_folder_is_one_input_and_finished_ones_are_kept(tmp_path, tiny_checkpoint) -> None:
    write(tmp_path / "a.ome.zarr", ranks((3, 33, 41)), levels=1)
    for word in ("verified", "kept"):
        done = predict(tiny_checkpoint, tmp_path / "a.ome.zarr", "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
        assert word in done.output
    mask = read_mask(tmp_path / "out" / "a_mask.ome.zarr")
    assert mask.shape == (3, 33, 41)
    assert mask.spacing_mm == (3.0, 0.5, 0.25)


def test_a_folder_of_patients_and_pictures(tmp_path) -> None:
    scan(tmp_path / "in" / "anna" / "ct")
    scan(tmp_path / "in" / "bert")
    write(tmp_path / "in" / "c.zarr", ranks())
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "in" / "d.nii")
    (tmp_path / "in" / "notes").mkdir()
    found = collect([tmp_path / "in"])
    assert [p.name for p in found] == ["anna", "bert", "c.zarr", "d.nii"]
    names = [m.name for m in targets(found, tmp_path).values()]
    assert names == ["anna_mask.nii.gz", "bert_mask.nii.gz", "c_mask.ome.zarr", "d_mask.nii.gz"]
    with pytest.raises(InputError, match="folders of DICOM"):
        collect([tmp_path / "in" / "notes"])


def test_several_series_are_listed_and_chosen_by_number(tmp_path, tiny_checkpoint) -> None:
    scan(tmp_path / "s", series="1.2.1")
    scan(tmp_path / "s", 1, series="1.2.2", names=list("abc"), SeriesDescription="thick")
    done = predict(tiny_checkpoint, tmp_path / "s", "--out", tmp_path / "out")
    assert done.exit_code == 1
    words = " ".join(done.output.split())
    assert "choose one with --volume K: 0: thin (CT, 3 slices of 41 x 33); 1: thick" in words
    done = predict(tiny_checkpoint, tmp_path / "s", "--out", tmp_path / "out", "--volume", 1)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_a_stack_of_tiff_gets_a_stack_with_its_distances(tmp_path, tiny_checkpoint, kind) -> None:
    """A PNG holds one slice: the mask of a stack is a TIFF, whose voxels are as large."""
    stack = np.random.default_rng(0).integers(0, 255, (3, 33, 41), np.uint8)
    path = tmp_path / "in" / ("a b.tif" if kind == "imagej" else "a b.ome.tif")
    path.parent.mkdir()
    if kind == "imagej":
        size = {"spacing": 1.5, "unit": "um", "axes": "ZYX"}
        tifffile.imwrite(path, stack, imagej=True, resolution=(4.0, 2.0), metadata=size)
    else:
        size = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.5}
        tifffile.imwrite(path, stack, metadata=size)
    tifffile.imwrite(path.with_name("one.tif"), stack[0])
    path.with_name("broken.tif").write_bytes(path.read_bytes()[:200])
    done = predict(tiny_checkpoint, path.parent, "--out", tmp_path / "out")
    assert "2 of 3 masks written and verified" in " ".join(done.output.split()), done.output
    (made,) = (tmp_path / "out").glob("a b*_mask.tif")
    assert (tmp_path / "out" / "one_mask.png").exists()
    mask = read_mask(made)
    assert mask.shape == stack.shape
    np.testing.assert_allclose(mask.spacing_mm, (0.0015, 0.0005, 0.00025), rtol=1e-6)
    arguments = ["reproduce", made, "--image", path, "--model", tiny_checkpoint]
    again = CliRunner().invoke(app, [str(a) for a in arguments])
    assert again.exit_code == 0, again.output
