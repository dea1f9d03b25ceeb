"""What is said about training data before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.io.preflight import count_labels, preflight_folders


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
