"""What is said about training data before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.io.layouts import find_layout
from napari_attnseg.io.preflight import count_labels, preflight_folders, preflight_layout


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three grey images of 7x11 with masks of two classes, one image without a mask."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    grey = np.arange(77, dtype=np.uint8).reshape(7, 11)
    mask = np.zeros((7, 11), np.uint8)
    mask[2:4, 3:8], mask[5, 5] = 1, 2
    for name in ("a", "b", "c"):
        write(images / f"{name}.png", grey)
        write(masks / f"{name}_mask.png", mask)
    write(images / "lonely.png", grey)
    return images, masks


def test_pairs_labels_and_what_is_left_over(folders: tuple[Path, Path]) -> None:
    found = preflight_folders(*folders)
    assert found.ok
    assert found.pairs == 3
    assert found.classes == 3
    assert found.channels == 1
    assert not found.signed
    assert found.pairing is not None
    assert [p.name for p in found.pairing.unpaired_images] == ["lonely.png"]
    assert dict(found.ids) == pytest.approx({0: 66 / 77, 1: 10 / 77, 2: 1 / 77})


def test_a_mask_of_another_size_is_a_problem(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    write(masks / "b_mask.png", np.ones((7, 13), np.uint8))
    found = preflight_folders(images, masks)
    assert not found.ok
    assert len(found.problems) == 1
    assert "b_mask.png" in found.problems[0]


def test_empty_masks_are_a_problem(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    for path in masks.iterdir():
        write(path, np.zeros((7, 11), np.uint8))
    assert "background only" in preflight_folders(images, masks).problems[0]
    sampled = preflight_folders(images, masks, sample=2)  # the third may hold something
    assert sampled.ok
    assert "note: the 2 masks looked at hold background only" in "\n".join(sampled.lines())


def test_colour_is_seen_in_the_pixels_not_in_the_format(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    rng = np.random.default_rng(0)
    for path in images.iterdir():
        write(path, np.repeat(rng.integers(0, 255, (7, 11, 1), np.uint8), 3, axis=2))
    assert preflight_folders(images, masks).channels == 1
    for path in images.iterdir():
        write(path, rng.integers(0, 255, (7, 11, 3), np.uint8))
    assert preflight_folders(images, masks).channels == 3


def test_numbered_objects_are_one_class(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    for path in masks.iterdir():
        write(path, np.arange(77, dtype=np.uint8).reshape(7, 11))
    assert preflight_folders(images, masks).classes == 2


def test_absent_folder_is_a_sentence(tmp_path: Path) -> None:
    found = preflight_folders(tmp_path / "no", tmp_path)
    assert "does not exist" in found.problems[0]


def strokes(*numbers: int) -> np.ndarray:
    labels = np.zeros((3, 5, 7), np.uint8)
    for z, number in enumerate(numbers):
        labels[z, 1, : z + 2] = number
    return labels


@pytest.mark.parametrize(
    ("labels", "sparse", "counts", "slices", "word"),
    [
        (strokes(), True, (0, 0), 0, "nothing is painted"),
        (strokes(1), True, (2, 0), 1, "only background"),
        (strokes(2, 2), True, (0, 5), 2, "no background"),
        (strokes(1, 2, 2), True, (2, 7), 3, ""),
        (strokes(1, 2, 5), True, (2, 3), 3, "stands for no class"),
        (strokes(1), False, (103, 2), 1, ""),
        (strokes(9), False, (103, 2), 1, ""),
        (strokes(), False, (105, 0), 0, "only background"),
    ],
)
def test_counts_of_labels(
    labels: np.ndarray, sparse: bool, counts: tuple[int, ...], slices: int, word: str
) -> None:
    found = count_labels(labels, 2, sparse)
    assert found.counts == counts
    assert found.slices == slices
    assert word in found.problem
    assert bool(found.problem) == bool(word)


def test_the_report_names_sizes_intensity_and_balance(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    write(images / "big.png", np.full((20, 30), 200, np.uint8))
    write(masks / "big_mask.png", np.zeros((20, 30), np.uint8))
    found = preflight_folders(images, masks)
    assert found.sizes == (((1, 7, 11), 3), ((1, 20, 30), 1))
    assert found.intensity is not None
    assert (found.intensity.low, found.intensity.high) == (0.0, 200.0)
    text = "\n".join(found.lines())
    assert "4 pairs (4 looked at closely)" in text
    assert "sizes: 7 x 11 to 20 x 30, 2 different sizes" in text
    assert "intensity: 0 to 200" in text
    share = 3 * 10 / (3 * 77 + 600)
    assert f"1: {share:.1%}" in text
    assert "hardly any contrast in big.png" in text
    assert "only 4 pairs" in text


def test_types_and_colours_that_differ_are_told(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    rng = np.random.default_rng(0)
    write(images / "a.png", rng.integers(0, 60000, (7, 11)).astype(np.uint16))
    write(images / "b.png", rng.integers(0, 255, (7, 11, 3)).astype(np.uint8))
    text = "\n".join(preflight_folders(images, masks).lines())
    assert "images of different types (1 uint16, 2 uint8)" in text
    assert "1 of 3 images are coloured, the rest grey" in text
    assert "with three the grey ones are repeated" in text


def test_a_recognised_data_set_speaks_in_its_classes(tmp_path: Path) -> None:
    trimap = np.full((7, 11), 2, np.uint8)
    trimap[2:4, 3:8], trimap[4, 3:8] = 1, 3
    for n in range(10):
        for folder, array in (
            ("images", np.arange(77, dtype=np.uint8).reshape(7, 11)),
            ("annotations/trimaps", trimap),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            write(tmp_path / folder / f"Pug_{n}.png", array)
    found = preflight_layout(find_layout(tmp_path, "border-ignored"))
    assert found.pairs == 8
    assert found.class_names == ("background", "pet")
    assert found.unknown == pytest.approx(5 / 77)
    assert dict(found.ids)[1] == pytest.approx(10 / 72)
    assert "background: 86.1%, pet: 13.9%; 6.5% of all pixels unknown" in "\n".join(found.lines())
    assert found.ok
