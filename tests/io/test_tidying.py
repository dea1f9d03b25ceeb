"""Largest parts and holes against scipy on the whole array, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_attnseg.io import components
from napari_attnseg.io.tidying import FILL_2D, FILL_3D, KEEP_LARGEST, fill_holes, keep_largest, tidy

ALL = np.ones((3, 3, 3))


@pytest.fixture(params=[1, 150, 1 << 20], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slices are taken at once, the answer is the same."""
    monkeypatch.setattr(components, "BLOCK_VOXELS", request.param)


def noise(seed: int, classes: int = 2, shape: tuple[int, ...] = (11, 7, 13)) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 0.7)
    return np.digitize(smooth, np.linspace(0.45, 0.55, classes)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_part_of_every_class_stays(seed: int) -> None:
    labels = noise(seed)
    before = labels.copy()
    expected = np.zeros_like(labels)
    for id in (1, 2):
        parts, n = ndimage.label(labels == id, ALL)
        sizes = ndimage.sum_labels(parts > 0, parts, range(1, n + 1))
        expected[parts == 1 + int(np.argmax(sizes))] = id
    np.testing.assert_array_equal(keep_largest(labels), expected)
    assert (expected != labels).any()
    np.testing.assert_array_equal(labels, before)


def test_one_class_alone_can_be_asked_for() -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2], (7, 9, 11), p=(0.9, 0.05, 0.05))
    every = keep_largest(labels)
    for id in (1, 2):
        assert (every[labels == id] != id).any()
        expected = np.where(labels == id, every, labels)
        np.testing.assert_array_equal(keep_largest(labels, only=id), expected)


@pytest.mark.parametrize("seed", range(4))
def test_holes_are_scipys_in_space_and_in_every_slice(seed: int) -> None:
    labels = (np.random.default_rng(seed).random((9, 11, 13)) < 0.7).astype(np.uint16) * 3
    filled = ndimage.binary_fill_holes(labels > 0)
    np.testing.assert_array_equal(fill_holes(labels), filled * 3)
    flat = np.stack([ndimage.binary_fill_holes(s > 0) for s in labels])
    np.testing.assert_array_equal(fill_holes(labels, per_slice=True), flat * 3)
    assert flat.sum() > filled.sum() > (labels > 0).sum()
    assert fill_holes(labels).dtype == np.uint16


def shell(radius: int, shape: tuple[int, int, int] = (13, 13, 13)) -> np.ndarray:
    """The surface of a cube around the middle."""
    z, y, x = np.abs(np.mgrid[tuple(slice(0, n) for n in shape)] - 6)
    return np.maximum(np.maximum(z, y), x) == radius


def test_what_lies_in_a_hole_stays_and_the_inner_class_takes_its_own() -> None:
    labels = np.zeros((13, 13, 13), np.uint8)
    labels[shell(5)], labels[shell(2)] = 1, 2
    labels[6, 6, 6] = 7
    full = fill_holes(labels)
    z, y, x = np.abs(np.mgrid[:13, :13, :13] - 6)
    far = np.maximum(np.maximum(z, y), x)
    expected = np.select([far == 0, far <= 2, far <= 5], [7, 2, 1], 0)
    np.testing.assert_array_equal(full, expected)
    labels[6, 6, 11] = 0  # a way in: over a face
    np.testing.assert_array_equal(fill_holes(labels)[far == 4], 0)


def test_a_gap_over_an_edge_lets_nothing_in() -> None:
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, [1, 2, 2, 3], [2, 1, 3, 2]] = 1  # a diamond: its corners touch
    assert fill_holes(labels)[0, 2, 2] == 1
    np.testing.assert_array_equal(fill_holes(labels).sum(), 5)


def test_a_hole_at_the_end_of_the_image_is_none() -> None:
    labels = np.ones((3, 5, 7), np.uint8)
    labels[0, 2, 3] = 0
    np.testing.assert_array_equal(fill_holes(labels), labels)
    assert fill_holes(labels, per_slice=True).all()


def test_nothing_and_everything() -> None:
    for labels in (np.zeros((3, 5, 7), np.uint8), np.ones((3, 5, 7), np.uint8)):
        np.testing.assert_array_equal(tidy(labels, (KEEP_LARGEST, FILL_2D, FILL_3D)), labels)


def test_steps_come_in_their_order() -> None:
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 1:6, 1:6] = 1
    labels[0, 2:5, 2:5] = 0
    labels[0, 3, 3] = 1  # an islet in the hole
    both = tidy(labels, (KEEP_LARGEST, FILL_3D))
    assert both.sum() == 25
    assert tidy(labels, (KEEP_LARGEST,)).sum() == 16
