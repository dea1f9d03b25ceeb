"""What is refused when nobody may have a doubt, and a table that is always true."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from command_line import message
from PIL import Image

from dicom_series import positions, values, write_series
from napari_attnseg.errors import ExportError


def lines(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {row["mask"]: row for row in csv.DictReader(file)}


@pytest.fixture
def ct_checkpoint(tmp_path: Path) -> Path:
    """A tiny model of CT slices."""
    from napari_attnseg.cards import Card
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint
    from napari_attnseg.settings import Preprocessing

    model = create_model("smooth_unet", in_channels=1, classes=1, width=0.125)
    window = Preprocessing(intensity="window", low=-160, high=240)
    path = tmp_path / "ct.safetensors"
    save_checkpoint(path, model, Card(spec=model.spec.to_json(), preprocessing=window))
    return path


def hounsfield(shape: tuple[int, int, int]) -> np.ndarray:
    ids = values(shape).astype(float)
    return (ids / ids.max() * 1400 - 1000).astype(np.int16)


@pytest.mark.parametrize("hole", [None, 2])
def test_strict_refuses_a_series_with_a_hole(hole: int | None, ct_checkpoint, tmp_path) -> None:
    kept = [z for z in range(9) if z != hole]
    stored = hounsfield((9, 33, 35))
    pixels = (stored[kept] + 1024).astype(np.uint16)
    places = positions(9)[kept]
    write_series(tmp_path / "s", pixels, places, RescaleIntercept=-1024, RescaleSlope=1)
    common = ["predict", ct_checkpoint, tmp_path / "s", "--out", tmp_path / "o"]
    assert message(*common)[0] == 0, "without it, it is segmented"
    code, error = message(*common, "--strict")
    if hole is None:
        assert code == 0, error
        assert "kept" in error
        return
    assert code == 1
    assert "1 slice is missing (number 2, from 0)" in error
    code, error = message(*common[:-1], tmp_path / "p", "--strict")
    assert code == 1
    assert not list((tmp_path / "p").glob("*mask*"))


@pytest.mark.parametrize("code", [0, 1])
def test_strict_refuses_a_scan_that_does_not_say_how_it_lies(
    code: int, ct_checkpoint, tmp_path
) -> None:
    image = nib.Nifti1Image(hounsfield((33, 35, 5)), np.diag([0.7, 0.7, 3.0, 1.0]))
    image.set_sform(None if code == 0 else image.affine, code)
    image.set_qform(None if code == 0 else image.affine, code)
    nib.save(image, tmp_path / "a.nii")
    common = ["predict", ct_checkpoint, tmp_path / "a.nii", "--out", tmp_path / "o"]
    ended, error = message(*common, "--strict")
    assert ended == 1 - code, error
    assert ("refused: " in error) == (code == 0)
    assert ("no header says how the patient lies" in error) == (code == 0)
    assert message(*common)[0] == 0


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (33, 35)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_a_single_file_leaves_no_stale_line(tiny_checkpoint: Any, images, tmp_path) -> None:
    out = tmp_path / "o"
    assert message("predict", tiny_checkpoint, images, "--out", out)[0] == 0
    before = lines(out)
    more = ["--cut", "0.01", "--overwrite"]
    code, error = message("predict", tiny_checkpoint, images / "a.png", "--out", out, *more)
    assert code == 0
    assert "table: " in error
    after = lines(out)
    assert after["b_mask.png"] == before["b_mask.png"]
    name = next(key for key in after["a_mask.png"] if key.startswith("voxels_"))
    drawn = int((np.array(Image.open(out / "a_mask.png")) > 0).sum())
    assert int(after["a_mask.png"][name]) == drawn != int(before["a_mask.png"][name])


def test_a_table_of_somebody_else_is_left_alone(tiny_checkpoint: Any, images, tmp_path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "predictions.csv").write_text("name,age\nx,3\n")
    assert message("predict", tiny_checkpoint, images / "a.png", "--out", out)[0] == 0
    assert (out / "predictions.csv").read_text() == "name,age\nx,3\n"


def test_a_table_that_could_not_be_written_is_not_named_as_if(
    tiny_checkpoint: Any, images, tmp_path, monkeypatch
) -> None:
    from napari_attnseg.engine import batch_table

    def full(path: Path, text: str) -> None:
        raise ExportError(f"no space left for {path.name}")

    monkeypatch.setattr(batch_table, "write_text", full)
    code, error = message("predict", tiny_checkpoint, images, "--out", tmp_path / "o")
    assert code == 1
    last = error.strip().splitlines()[-1]
    assert "2 of 2 masks written" in last
    assert last.endswith("predictions.csv is NOT up to date: it could not be written")
