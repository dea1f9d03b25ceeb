"""Tiny twins of the archives' trees: which files pair, the split, and what the masks mean."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_attnseg.errors import InputError
from napari_attnseg.io.layout import UNKNOWN, read_item
from napari_attnseg.io.layouts import find_layout, recognise

SIZE = (11, 7)  # rows, columns
RNG = np.random.default_rng(5)


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (*size, 3), np.uint8)).save(path)


def mask(path: Path, values: np.ndarray, mode: str | None = None) -> np.ndarray:
    """Save ids or grey values in a given mode (``"1"``, ``"P"``, ``"RGBA"``, ...)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return values


def block(value: int = 255, other: int = 0) -> np.ndarray:
    """A 4 x 3 block of ``value`` in the middle of ``other``."""
    values = np.full(SIZE, other, np.uint8)
    values[3:7, 2:5] = value
    return values


BLOCK = (block() > 0).astype(np.int16)


def names(items: tuple) -> list[str]:
    return [item.image.name for item in items]


def test_kvasir_seg_with_jpeg_masks_in_a_folder_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "kvasir-seg" / "Kvasir-SEG"
    for i in range(6):
        photo(home / "images" / f"cju{i}.jpg")
        mask(home / "masks" / f"cju{i}.jpg", block(), "RGB")
    (home / "kavsir_bboxes.json").write_text("{}")
    layout = find_layout(tmp_path / "kvasir-seg")
    assert layout.name == "kvasir-seg"
    assert names(layout.test) == ["cju5.jpg"]
    assert layout.class_names == ("background", "polyp")
    target = read_item(layout.train[0], layout.labels)[1][0]
    assert set(np.unique(target)) == {0, 1}
    assert (target == BLOCK).mean() > 0.9  # JPEG blurs the rim


def test_kvasir_instrument_by_its_lists(tmp_path: Path) -> None:
    for i in range(5):
        photo(tmp_path / "images" / f"ckc{i}.jpg")
        mask(tmp_path / "masks" / f"ckc{i}.png", block(), "1")
    (tmp_path / "train.txt").write_text("ckc4\nckc0\nckc2\n")
    (tmp_path / "test.txt").write_text("ckc1\nckc3\n")
    layout = find_layout(tmp_path)
    assert layout.name == "kvasir-instrument"
    assert names(layout.train) == ["ckc0.jpg", "ckc2.jpg", "ckc4.jpg"]
    assert names(layout.test) == ["ckc1.jpg", "ckc3.jpg"]
    np.testing.assert_array_equal(read_item(layout.test[0], layout.labels)[1][0], BLOCK)


def test_lits_pairs_by_number_and_has_three_readings(tmp_path: Path) -> None:
    for n in (0, 2, 10, 11, 101):
        home = tmp_path / ("Training Batch 1" if n < 28 else "Training Batch 2")
        home.mkdir(exist_ok=True)
        ids = np.zeros((7, 9, 5), np.uint8)
        ids[2:5, 3:6, 1:4] = 1
        ids[3, 4, 2] = 2
        affine = np.diag([-1.0, -1.0, 2.5, 1.0])
        volume = RNG.normal(0, 100, ids.shape).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, affine), home / f"volume-{n}.nii")
        flipped = affine @ [[-1, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        nib.save(nib.Nifti1Image(ids[::-1], flipped), home / f"segmentation-{n}.nii")
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "Training Batch 1" / "volume-5.nii")
    layout = find_layout(tmp_path)
    assert layout.name == "lits"
    assert names(layout.train) == [f"volume-{n}.nii" for n in (0, 2, 10, 11)]
    assert names(layout.test) == ["volume-101.nii"]
    assert "1 volumes have no segmentation" in layout.report()
    ids_view = ids.transpose(2, 1, 0)  # the mask is stored mirrored; it must come back
    image, target = read_item(layout.test[0], layout.labels)
    assert image.shape == target.shape == (5, 9, 7)
    np.testing.assert_array_equal(target, ids_view > 0)
    both = read_item(layout.test[0], layout.with_labels("liver-tumour").labels)[1]
    np.testing.assert_array_equal(both, ids_view)
    tumour = read_item(layout.test[0], layout.with_labels("tumour").labels)[1]
    np.testing.assert_array_equal(tumour, ids_view == 2)


def test_drive_gifs_and_the_field_of_view(tmp_path: Path) -> None:
    field = np.full(SIZE, 255, np.uint8)
    field[:, 0] = 0
    for part, first, word in (("training", 21, "training"), ("test", 1, "test")):
        home = tmp_path / "DRIVE" / part
        for n in range(first, first + 3):
            photo(home / "images" / f"{n:02d}_{word}.tif")
            mask(home / "1st_manual" / f"{n:02d}_manual1.gif", block())
            mask(home / "mask" / f"{n:02d}_{word}_mask.gif", field)
    mask(tmp_path / "DRIVE" / "test" / "2nd_manual" / "01_manual2.gif", block())
    layout = find_layout(tmp_path)
    assert layout.name == "drive"
    assert names(layout.train) == [f"{n}_training.tif" for n in (21, 22, 23)]
    assert names(layout.test) == ["01_test.tif", "02_test.tif", "03_test.tif"]
    wanted = BLOCK.copy()
    wanted[:, 0] = UNKNOWN
    np.testing.assert_array_equal(read_item(layout.test[1], layout.labels)[1][0], wanted)


def test_drive_without_the_manual_segmentations_of_its_test_part(tmp_path: Path) -> None:
    for n in range(21, 26):
        photo(tmp_path / "training" / "images" / f"{n}_training.tif")
        mask(tmp_path / "training" / "1st_manual" / f"{n}_manual1.gif", block())
    photo(tmp_path / "test" / "images" / "01_test.tif")
    layout = find_layout(tmp_path)
    assert names(layout.test) == ["25_training.tif"]
    assert "1st_manual is absent" in layout.split
    np.testing.assert_array_equal(read_item(layout.test[0], layout.labels)[1][0], BLOCK)


def test_isic_2017_without_its_superpixels(tmp_path: Path) -> None:
    for part, ids in (("Training", (0, 1, 3)), ("Validation", (7,)), ("Test_v2", (8, 9))):
        for n in ids:
            photo(tmp_path / f"ISIC-2017_{part}_Data" / f"ISIC_{n:07d}.jpg")
            photo(tmp_path / f"ISIC-2017_{part}_Data" / f"ISIC_{n:07d}_superpixels.png")
            truth = tmp_path / f"ISIC-2017_{part}_Part1_GroundTruth"
            mask(truth / f"ISIC_{n:07d}_segmentation.png", block())
    layout = find_layout(tmp_path)
    assert layout.name == "isic2017"
    assert [len(p) for p in (layout.train, layout.validation, layout.test)] == [3, 1, 2]
    assert len(layout.pairs) == 6
    np.testing.assert_array_equal(read_item(layout.test[0], layout.labels)[1][0], BLOCK)


@pytest.mark.parametrize("inside", [True, False])
def test_cub_masks_by_majority_beside_or_inside(tmp_path: Path, inside: bool) -> None:
    home = tmp_path / "CUB_200_2011"
    truth = (home if inside else tmp_path) / "segmentations"
    listed = ["001.Albatross/a_1.jpg", "001.Albatross/a_2.jpg", "002.Auk/b_1.jpg", "002.Auk/x.jpg"]
    for name in listed[:3]:
        photo(home / "images" / name)
    votes = block(204, 51)
    votes[0, 0] = 102
    mask((truth / listed[0]).with_suffix(".png"), votes)
    rgba = np.dstack([block()] * 3 + [np.full(SIZE, 255, np.uint8)])
    (truth / "002.Auk").mkdir(parents=True)
    Image.fromarray(rgba).save((truth / listed[2]).with_suffix(".png"))
    mask((truth / listed[1]).with_suffix(".png"), block())
    (home / "images.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(listed, 1)))
    (home / "train_test_split.txt").write_text("1 1\n2 0\n3 0\n4 1\n")
    layout = find_layout(home if inside else tmp_path)
    assert layout.name == "cub-200-2011"
    assert names(layout.train) == ["a_1.jpg"]
    assert names(layout.test) == ["a_2.jpg", "b_1.jpg"]
    assert "1 of 4 listed images lack a file" in layout.report()
    for item in (*layout.train, *layout.test):
        np.testing.assert_array_equal(read_item(item, layout.labels)[1][0], BLOCK)


def pets(home: Path, breeds: dict[str, int]) -> np.ndarray:
    trimap = block(1, 2)
    trimap[3, 2:5] = 3
    for breed, count in breeds.items():
        for n in range(1, count + 1):
            photo(home / "images" / f"{breed}_{n}.jpg")
            mask(home / "annotations" / "trimaps" / f"{breed}_{n}.png", trimap)
    (home / "annotations" / "trimaps" / "._Bengal_1.png").write_bytes(b"\0\5\x16\7")
    return trimap


def test_pets_by_the_lists_and_both_conventions(tmp_path: Path) -> None:
    trimap = pets(tmp_path, {"Bengal": 3, "great_dane": 2})
    listed = tmp_path / "annotations"
    (listed / "trainval.txt").write_text("Bengal_1 6 1 2\ngreat_dane_2 7 2 3\n")
    (listed / "test.txt").write_text("#Image CLASS-ID\nBengal_3 6 1 2\n")
    layout = find_layout(tmp_path)
    assert layout.name == "oxford-pets"
    assert names(layout.train) == ["Bengal_1.jpg", "great_dane_2.jpg"]
    assert names(layout.test) == ["Bengal_3.jpg"]
    target = read_item(layout.test[0], layout.labels)[1][0]
    np.testing.assert_array_equal(target, trimap != 2)
    ignored = read_item(layout.test[0], layout.with_labels("border-ignored").labels)[1][0]
    np.testing.assert_array_equal(ignored, np.array([9, 1, 0, UNKNOWN])[trimap])


def test_pets_without_lists_split_each_breed(tmp_path: Path) -> None:
    pets(tmp_path, {"Bengal": 10, "american_bulldog": 5})
    layout = find_layout(tmp_path)
    assert names(layout.test) == ["Bengal_8.jpg", "Bengal_9.jpg", "american_bulldog_5.jpg"]
    assert "each breed" in layout.split


def test_fish_by_species(tmp_path: Path) -> None:
    home = tmp_path / "Fish_Dataset" / "Fish_Dataset"
    for species in ("Black Sea Sprat", "Trout"):
        for n in range(1, 6):
            photo(home / species / species / f"{n:05d}.png")
            mask(home / species / f"{species} GT" / f"{n:05d}.png", block(), "1")
        photo(tmp_path / "NA_Fish_Dataset" / species / "00001.png")
    layout = find_layout(tmp_path)
    assert layout.name == "fish"
    assert (len(layout.train), len(layout.test)) == (8, 2)
    assert names(layout.test) == ["00005.png", "00005.png"]
    np.testing.assert_array_equal(read_item(layout.test[1], layout.labels)[1][0], BLOCK)
    for item in (*layout.train, *layout.test):
        assert item.mask.parent.name == f"{item.image.parent.name} GT"


def test_fire_with_and_without(tmp_path: Path) -> None:
    for kind, values in (("Fire", block()), ("Not_Fire", np.zeros(SIZE, np.uint8))):
        for n in range(5):
            photo(tmp_path / "Image" / kind / f"Img_{n}.jpg")
            mask(tmp_path / "Segmentation_Mask" / kind / f"Img_{n}.jpg", values)
    layout = find_layout(tmp_path)
    assert layout.name == "fire"
    assert [item.image.parent.name for item in layout.test] == ["Fire", "Not_Fire"]
    assert read_item(layout.test[0], layout.labels)[1].any()
    assert not read_item(layout.test[1], layout.labels)[1].any()


def test_flood_train_and_val(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for n in range(count):
            photo(tmp_path / "dataset" / part / "images" / f"{n}.png")
            mask(tmp_path / "dataset" / part / "labels" / f"{n}.png", block(250, 4))
    layout = find_layout(tmp_path)
    assert layout.name == "flood"
    assert (len(layout.train), len(layout.test)) == (3, 2)
    np.testing.assert_array_equal(read_item(layout.train[0], layout.labels)[1][0], BLOCK)


def test_plain_folders_ids_and_the_limit(tmp_path: Path) -> None:
    for n in range(20):
        photo(tmp_path / "images" / f"{n:02d}.png")
        mask(tmp_path / "labels" / f"{n:02d}.png", block(7, 2))
    photo(tmp_path / "images" / "alone.png")
    layout = find_layout(tmp_path, labels="id=7", limit=10)
    assert layout.name == "folders"
    assert (len(layout.train), len(layout.test)) == (8, 2)
    assert names(layout.test) == ["16.png", "19.png"]
    assert "limited to 10 images" in layout.report()
    one = layout.limited(1)
    assert (len(one.train), len(one.test)) == (1, 1)
    assert "limited to 2 images, spread evenly; training and test need one each" in one.report()
    assert "1 files in images and labels have no partner" in layout.report()
    np.testing.assert_array_equal(read_item(layout.train[0], layout.labels)[1][0], BLOCK)


def test_a_split_made_by_hand(tmp_path: Path) -> None:
    for part in ("train", "test"):
        photo(tmp_path / part / "images" / "a.png")
        mask(tmp_path / part / "masks" / "a.png", block())
    layout = find_layout(tmp_path)
    assert (layout.name, layout.split) == ("split-folders", "as in the folder")
    assert layout.test[0].image.parent.parent.name == "test"


def test_words_for_what_is_not_known(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "absent") is None
    with pytest.raises(InputError, match="whose layout is unknown; expected images/ and masks/"):
        find_layout(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_layout(tmp_path / "absent")
    pets(tmp_path, {"Bengal": 5})
    with pytest.raises(InputError, match="expected border-foreground, border-ignored or id=1"):
        find_layout(tmp_path, labels="rim")
    with pytest.raises(InputError, match="expected numbers"):
        find_layout(tmp_path, labels="id=pet")


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    for n in range(5):
        photo(tmp_path / "images" / f"{n}.png", (9, 9))
        mask(tmp_path / "masks" / f"{n}.png", block())
    layout = find_layout(tmp_path)
    with pytest.raises(InputError, match=r"0\.png: it is \(1, 11, 7\) but the image is \(1, 9, 9"):
        read_item(layout.train[0], layout.labels)


def test_shared_sets_are_recognised(shared_data: Path) -> None:
    found = {name: find_layout(shared_data / name) for name in ("dsb2018", "oxford_pets")}
    assert len(found["dsb2018"].test) == 80
    assert len(found["oxford_pets"].test) == 60
    assert found["oxford_pets"].name == "oxford-pets"
