"""``measure``: files and folders, references in the same place, one sentence for the others."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_attnseg.cli import main
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image

AFFINE = np.array([[-0.7, 0.1, 0, 90], [0, 0.8, 0.3, -40], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["napari-attnseg", "measure", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan, its mask, and a reference stored the other way along i."""
    values = np.random.default_rng(0).normal(50, 9, (13, 11, 7)).astype(np.float32)
    ids = np.zeros(values.shape, np.uint8)
    ids[2:6, 3:8, 1:5], ids[8:11, 1:3, 2:4] = 1, 2
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "scan.nii.gz")
    names = {0: "background", 1: "liver", 2: "spleen"}
    source = read_image(tmp_path / "scan.nii.gz")
    turned = np.transpose(ids, source.geometry.order)
    write_mask(tmp_path / "scan_mask.nii.gz", turned, source, names)
    truth = ids.copy()
    truth[2, 3:8, 1:5] = 0
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = 12
    nib.save(nib.Nifti1Image(truth[::-1], AFFINE @ turn), tmp_path / "scan_gt.nii.gz")
    return tmp_path


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_one_mask_with_image_and_reference(scan: Path, run: Any, capsys: Any) -> None:
    out = scan / "t.csv"
    words = ("--image", scan / "scan.nii.gz", "--reference", scan / "scan_gt.nii.gz", "--csv", out)
    assert run(scan / "scan_mask.nii.gz", *words) == 0
    liver, spleen = table_of(out)
    voxel = abs(np.linalg.det(AFFINE[:3, :3]))
    assert float(liver["volume_ml"]) == pytest.approx(80 * voxel / 1000, rel=1e-5)
    values = np.asarray(nib.load(scan / "scan.nii.gz").dataobj)
    assert float(liver["mean"]) == pytest.approx(values[2:6, 3:8, 1:5].mean(), rel=1e-5)
    assert float(liver["dice"]) == pytest.approx(2 * 60 / 140)
    assert (float(spleen["dice"]), float(spleen["hd95"])) == (1, 0)
    middle = AFFINE @ [3.5, 5, 2.5, 1]
    found = [float(liver[f"{axis}_centroid_mm"]) for axis in "RAS"]
    np.testing.assert_allclose(found, middle[:3], rtol=1e-5)
    shown = capsys.readouterr().out
    assert "liver" in shown
    assert "surface_dice" in shown


def test_a_reference_elsewhere_is_refused(scan: Path, run: Any, capsys: Any) -> None:
    image = nib.load(scan / "scan_gt.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), scan / "moved.nii.gz")
    assert run(scan / "scan_mask.nii.gz", "--reference", scan / "moved.nii.gz") == 1
    assert "does not lie where the mask lies" in capsys.readouterr().err
    small = np.asarray(image.dataobj)[:5]
    nib.save(nib.Nifti1Image(small, image.affine), scan / "small.nii.gz")
    assert run(scan / "scan_mask.nii.gz", "--image", scan / "small.nii.gz") == 1
    assert "resample one first" in capsys.readouterr().err


def test_folders_go_together_by_name_and_a_bad_file_is_named(
    tmp_path: Path, run: Any, capsys: Any
) -> None:
    for folder in ("masks", "truth", "images"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(1)
    for name in "abc":
        ids = rng.integers(0, 3, (9, 12)).astype(np.uint8)
        Image.fromarray(ids).save(tmp_path / "masks" / f"{name}_mask.png")
        Image.fromarray(ids).save(tmp_path / "truth" / f"{name}_gt.png")
        Image.fromarray(ids * 40).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "masks" / "b_mask.png").write_bytes(b"no picture")
    (tmp_path / "truth" / "c_gt.png").unlink()
    out = tmp_path / "all.csv"
    words = ("--reference", tmp_path / "truth", "--image", tmp_path / "images", "--csv", out)
    assert run(tmp_path / "masks", *words, "--parts") == 1
    said = capsys.readouterr().err
    assert "b_mask.png" in said
    assert "no file fits c_mask.png" in said
    assert "1 of 3 masks measured" in said
    rows = table_of(out)
    whole = [r for r in rows if not r["part"]]
    assert [r["mask"] for r in whole] == ["a_mask.png"] * 2
    assert [float(r["dice"]) for r in whole] == [1, 1]
    assert [float(r["mean"]) for r in whole] == [40, 80]
    assert len(rows) == 2 + sum(int(r["parts"]) for r in whole)


def test_an_empty_mask_and_an_absent_one(tmp_path: Path, run: Any, capsys: Any) -> None:
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "m.png")
    assert run(tmp_path / "m.png") == 0
    assert "no class has a pixel" in capsys.readouterr().out
    assert run(tmp_path / "absent.png") == 1
    assert "does not exist" in capsys.readouterr().err
