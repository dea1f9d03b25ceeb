"""A mask that lies elsewhere than its image is neither learnt from nor compared with."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.engine.data import FolderSource
from napari_attnseg.engine.evaluate import read_pair
from napari_attnseg.errors import InputError
from napari_attnseg.io.preflight import preflight_folders
from napari_attnseg.settings import Preprocessing, TrainSettings

SHAPE = (7, 11, 13)
SPACE = np.array([[-0.7, 0, 0, 31], [0, 0.9, 0, -17], [0, 0, 2.5, 402], [0, 0, 0, 1]], float)
IDS = (np.random.default_rng(0).random(SHAPE) > 0.5).astype(np.uint8)


def moved(**by: float) -> np.ndarray:
    affine = SPACE.copy()
    affine[:3, 3] += [by.get("x", 0), by.get("y", 0), by.get("z", 0)]
    return affine


def mirrored() -> np.ndarray:
    """The same voxels, said to run the other way, without turning them."""
    affine = SPACE.copy()
    affine[0, 0] *= -1
    return affine


def rounded() -> np.ndarray:
    """What float32 and a rewritten origin cost: 0.004 of a voxel."""
    return moved(x=0.003)


def files(folder: Path, affine: np.ndarray) -> tuple[Path, Path]:
    image, mask = folder / "images" / "a.nii", folder / "masks" / "a.nii.gz"
    for path in (image, mask):
        path.parent.mkdir()
    nib.save(nib.Nifti1Image(IDS.astype(np.int16) * 100, SPACE), image)
    nib.save(nib.Nifti1Image(IDS, affine), mask)
    return image, mask


ELSEWHERE = {
    "moved": (moved(z=2.5), "3.57 voxels"),  # of 0.7 mm, the smallest edge
    "a little": (moved(y=0.05), "0.0714 voxels"),
    "mirrored": (mirrored(), "voxels"),
    "larger": (SPACE * [[2], [2], [2], [1]], "voxels"),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_elsewhere_is_refused(case: str, tmp_path: Path) -> None:
    affine, apart = ELSEWHERE[case]
    image, mask = files(tmp_path, affine)
    with pytest.raises(InputError, match=r"a\.nii\.gz does not lie where its image lies") as told:
        read_pair(image, mask)
    assert apart in str(told.value)
    assert "take files of the same scan" in str(told.value)
    source = FolderSource(image.parent, mask.parent)
    settings = TrainSettings(preprocessing=Preprocessing(intensity="unit"))
    with pytest.raises(InputError, match=r"a\.nii\.gz does not lie where its image lies"):
        list(source.scan(settings))
    found = preflight_folders(image.parent, mask.parent)
    assert any("a.nii.gz does not lie where its image lies" in p for p in found.problems)


def test_rounding_in_a_header_is_no_other_place(tmp_path: Path) -> None:
    image, mask = files(tmp_path, rounded())
    volume, ids = read_pair(image, mask)
    np.testing.assert_array_equal(ids * 100, volume.view)
    assert preflight_folders(image.parent, mask.parent).ok


def test_a_picture_and_a_mask_without_a_place_are_compared_as_ever(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IDS[0] * 100).save(tmp_path / "a.png")
    Image.fromarray(IDS[0]).save(tmp_path / "m.png")
    _, ids = read_pair(tmp_path / "a.png", tmp_path / "m.png")
    np.testing.assert_array_equal(ids[0], IDS[0])
