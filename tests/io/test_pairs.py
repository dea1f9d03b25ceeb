"""Pairing by name: one stated rule, everything left over is listed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_attnseg.errors import InputError
from napari_attnseg.io.pairs import check_pair_sizes, list_images, pair_files, pair_folders


def fill(folder: Path, *names: str, size: tuple[int, int] = (5, 6)) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        if ".nii" in name:
            nib.save(nib.Nifti1Image(np.zeros((*size, 3), np.uint8), np.eye(4)), folder / name)
        else:
            Image.fromarray(np.zeros(size, np.uint8)).save(folder / name)
    return folder


def names(pairs: tuple[tuple[Path, Path], ...]) -> list[tuple[str, str]]:
    return [(a.name, b.name) for a, b in pairs]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.png", "a.png"),
        ("a.jpg", "a.png"),
        ("A.JPG", "a.tif"),
        ("a.png", "a_mask.png"),
        ("a.png", "a_masks.tif"),
        ("a.png", "a-seg.png"),
        ("a.png", "a_labels.tif"),
        ("a.png", "a.label.tif"),
        ("a.png", "a_gt.bmp"),
        ("a.jpg", "a_segmentation.png"),
        ("a.jpg", "a_GroundTruth.png"),
        ("a.jpg", "mask_a.png"),
        ("a.nii.gz", "a.nii"),
        ("a.nii.gz", "a_seg.nii.gz"),
        ("a_0000.nii.gz", "a.nii.gz"),
        ("a_image.png", "a_mask.png"),
        ("img_a.png", "mask_a.png"),
        ("sub-1_ct.nii.gz", "sub-1_seg.nii.gz"),
        ("scan.2.png", "scan.2_mask.png"),
        ("mask_of_zorro.png", "mask_of_zorro.png"),
    ],
)
def test_names_that_pair(image, mask):
    pairing = pair_files([Path("i") / image], [Path("m") / mask])
    assert names(pairing.pairs) == [(image, mask)]
    assert pairing.unpaired_images == pairing.unpaired_masks == pairing.duplicates == ()


@pytest.mark.parametrize(
    ("image", "mask"),
    [("a.png", "b.png"), ("a1.png", "a10.png"), ("a.png", "amask.png"), ("image.png", "a.png")],
)
def test_names_that_do_not_pair(image, mask):
    pairing = pair_files([Path(image)], [Path(mask)])
    assert pairing.pairs == ()
    assert pairing.unpaired_images == (Path(image),)
    assert pairing.unpaired_masks == (Path(mask),)


def test_what_stays_unpaired_is_listed(tmp_path):
    fill(tmp_path / "i", "b.png", "a.jpg", "c.png")
    fill(tmp_path / "m", "a_mask.png", "b.png", "d.png")
    pairing = pair_folders(tmp_path / "i", tmp_path / "m")
    assert names(pairing.pairs) == [("a.jpg", "a_mask.png"), ("b.png", "b.png")]
    assert [p.name for p in pairing.unpaired_images] == ["c.png"]
    assert [p.name for p in pairing.unpaired_masks] == ["d.png"]
    text = pairing.report()
    assert "image without a mask: c.png" in text
    assert "mask without an image: d.png" in text
    assert "Same file name" in text


def test_an_exact_name_beats_a_stripped_one():
    pairing = pair_files([Path("a.png")], [Path("m/a.png"), Path("m/a_seg.png")])
    assert names(pairing.pairs) == [("a.png", "a.png")]
    assert [p.name for p in pairing.unpaired_masks] == ["a_seg.png"]


def test_doubles_are_left_out_and_reported():
    masks = [Path("m/a_seg.png"), Path("m/a_mask.tif"), Path("m/b.png")]
    pairing = pair_files(
        [Path("a.png"), Path("b.png"), Path("c.png"), Path("c.tif")], [*masks, Path("m/c.png")]
    )
    assert names(pairing.pairs) == [("b.png", "b.png")]
    assert {tuple(p.name for p in g) for g in pairing.duplicates} == {
        ("a_seg.png", "a_mask.tif"),
        ("c.png", "c.tif"),
    }
    assert [p.name for p in pairing.unpaired_images] == ["a.png", "c.png", "c.tif"]
    assert [p.name for p in pairing.unpaired_masks] == ["a_mask.tif", "a_seg.png", "c.png"]
    assert "same name: c.png, c.tif" in pairing.report()


def test_one_folder_may_hold_both(tmp_path):
    fill(tmp_path / "d", "a.png", "a_mask.png", "b.jpg", "b_mask.png", "c.png")
    pairing = pair_folders(tmp_path / "d", tmp_path / "d")
    assert names(pairing.pairs) == [("a.png", "a_mask.png"), ("b.jpg", "b_mask.png")]
    assert [p.name for p in pairing.unpaired_images] == ["c.png"]


def test_one_folder_without_both_is_told(tmp_path):
    images = fill(tmp_path / "x", "a.png", "b.png")
    with pytest.raises(InputError, match=r"are the same folder .* and no name in it ends in _mask"):
        pair_folders(images, images)
    masks = fill(tmp_path / "y", "a_mask.png")
    with pytest.raises(InputError, match=r"same folder .* and every name in it ends in _mask"):
        pair_folders(masks, masks)


def test_hidden_and_foreign_files_are_left_out_and_order_is_by_bytes(tmp_path):
    folder = fill(tmp_path / "d", "b.png", "a.png", "B.png", "._a.png")
    (folder / "notes.txt").write_text("hello")
    (folder / "sub.png").mkdir()
    assert [p.name for p in list_images(folder)] == ["B.png", "a.png", "b.png"]


def test_folders_that_cannot_be_used(tmp_path):
    images, empty = fill(tmp_path / "i", "a.png"), fill(tmp_path / "e")
    with pytest.raises(InputError, match="does not exist; expected a folder"):
        pair_folders(images, tmp_path / "absent")
    with pytest.raises(InputError, match="is a file"):
        pair_folders(images / "a.png", images)
    with pytest.raises(InputError, match="got no masks in"):
        pair_folders(images, empty)
    with pytest.raises(InputError, match="got no images in"):
        pair_folders(empty, images)
    with pytest.raises(InputError, match="are the same folder"):
        pair_folders(images, images)
    with pytest.raises(InputError, match=r"none of 1 images and 1 masks pair.*a\.png and b\.png"):
        pair_folders(images, fill(tmp_path / "m", "b.png"))


def test_sizes_are_compared_from_headers(tmp_path):
    fill(tmp_path / "i", "a.png", "b.png", "c.nii.gz")
    fill(tmp_path / "m", "a.png", "c.nii.gz")
    fill(tmp_path / "m", "b.png", size=(5, 7))
    pairs = pair_folders(tmp_path / "i", tmp_path / "m").pairs
    problems = check_pair_sizes(pairs)
    assert len(problems) == 1
    assert "mask b.png is 5 x 7 but image b.png is 5 x 6" in problems[0]
    (tmp_path / "m" / "a.png").write_bytes(b"nonsense")
    assert any("a.png" in text for text in check_pair_sizes(pairs))


def test_real_folders_pair_completely(shared_data):
    for a, b, count in (
        ("dsb2018/images", "dsb2018/labels", 400),
        ("oxford_pets/images", "oxford_pets/annotations/trimaps", 300),
        ("isic2017/images", "isic2017/masks", 16),
    ):
        pairing = pair_folders(shared_data / a, shared_data / b)
        assert len(pairing.pairs) == count
        assert not pairing.unpaired_images
        assert not pairing.unpaired_masks
        assert check_pair_sizes(pairing.pairs[:20]) == ()
