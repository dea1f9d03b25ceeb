"""Masks of nothing but 0 and 255: one class, which is said, unless their file calls them ids."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_attnseg.cli import app
from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.preflight import preflight_folders

WORDS = "0 and 255 read as background and class 1"
ONE = np.zeros((5, 11, 13), bool)
ONE[1:4, 2:8, 3:9] = True
FORMATS = ("m.nii", "m.nii.gz", "m.nrrd", "m.mha", "m.tif", "m.ome.zarr")


def imagej(path: Path, mask: np.ndarray = ONE) -> Path:
    axes = "ZYX"[-mask.ndim :]
    tifffile.imwrite(path, mask * np.uint8(255), imagej=True, metadata={"axes": axes})
    return path


@pytest.mark.parametrize("value", [255, 65535])
@pytest.mark.parametrize("name", [*FORMATS, "m.png"])
def test_what_we_write_keeps_its_values(tmp_path: Path, name: str, value: int) -> None:
    """A mask whose only id is 255 reads as that, in every format: its file says that it is ids."""
    ids = (ONE[2:3] if name == "m.png" else ONE) * np.uint16(value)
    write_mask(tmp_path / name, ids)
    again = read_mask(tmp_path / name)
    assert np.array_equal(again.view, ids)
    assert "read as background" not in again.note


def test_a_label_image_of_another_program_keeps_its_values(tmp_path: Path) -> None:
    for stated in (True, False):
        image = nib.Nifti1Image(ONE * np.uint8(255), np.diag([1, 1, 2.0, 1]))
        image.header.set_intent("label" if stated else "none")
        nib.save(image, tmp_path / "a.nii")
        mask = read_mask(tmp_path / "a.nii")
        assert int(mask.data.max()) == (255 if stated else 1)
        assert (WORDS in mask.note) is not stated


def test_reading_changes_nothing_and_exporting_again_keeps_what_was_shown(tmp_path: Path) -> None:
    """As an image (and so as a layer) the values are those of the file, there and back."""
    source = read_image(imagej(tmp_path / "a.tif"))
    assert set(np.unique(source.data)) == {0, 255}
    write_mask(tmp_path / "b.tif", source.view, source)
    assert np.array_equal(read_mask(tmp_path / "b.tif").data, source.data)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), tifffile.imread(tmp_path / "a.tif"))


def test_measure_says_it_and_compares_the_class(tmp_path: Path) -> None:
    write_mask(tmp_path / "ours.tif", ONE.astype(np.uint8))
    imagej(tmp_path / "theirs.tif")
    files = [str(tmp_path / "ours.tif"), "--reference", str(tmp_path / "theirs.tif")]
    done = CliRunner().invoke(app, ["measure", *files])
    assert done.exit_code == 0, done.output
    assert f"note: theirs.tif: {WORDS}" in done.output
    head, row = (line.split() for line in done.output.splitlines() if "note" not in line)
    assert row[-1] == row[-4] == "1"
    assert head[-4:] == ["dice", "iou", "hd95", "surface_dice"]
    assert "note" not in CliRunner().invoke(app, ["measure", files[0]]).output


def test_evaluating_says_it(tmp_path: Path, tiny_checkpoint) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    )
    square = np.zeros((32, 32), bool)
    square[8:20, 8:20] = True
    figures = []
    for value in (255, 1):
        tifffile.imwrite(tmp_path / "m.tif", square * np.uint8(value))
        found = evaluate(tiny_checkpoint, [(tmp_path / "a.tif", tmp_path / "m.tif")], "cpu")
        assert found.get("notes", []) == ([f"1 mask: {WORDS}"] if value == 255 else [])
        figures.append(found["dice"])
    assert figures[0] == figures[1]


def test_the_look_before_training_says_it(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(3):
        tifffile.imwrite(tmp_path / "images" / f"{k}.tif", np.full((40, 40), 9 * k, np.uint8))
        imagej(tmp_path / "masks" / f"{k}.tif", np.eye(40, dtype=bool))
    found = preflight_folders(tmp_path / "images", tmp_path / "masks")
    assert any(WORDS in note for note in found.notes), found.notes
    assert dict(found.ids).keys() == {0, 1}
