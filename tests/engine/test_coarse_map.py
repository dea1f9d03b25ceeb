"""Masks and probabilities as coarse logits, and strokes on another grid: cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.engine.anchoring import (
    anchors,
    at_working_size,
    changed_box,
    check_strokes,
    grown,
    hold_pixels,
)
from napari_attnseg.engine.coarse_map import coarse_logits, digest, slice_of
from napari_attnseg.errors import InputError

IDS = np.array([[0, 3, 0], [7, 0, 0]], np.int32)


def test_labels_become_signed_logits_of_foreground() -> None:
    found = coarse_logits(IDS, "labels", 1, (2, 3))
    assert found.tolist() == [[[[-6, 6, -6], [6, -6, -6]]]]


def test_labels_of_several_classes_have_a_map_each() -> None:
    ids = np.array([[0, 1], [2, 2]], np.uint8)
    found = coarse_logits(ids, "labels", 3, (2, 2))
    assert found[0].argmax(0).tolist() == ids.tolist()
    assert sorted(found.unique().tolist()) == [-6, 6]
    assert (found == 6).sum() == 4  # every pixel has one class


def test_a_probability_becomes_its_logit_within_the_limit() -> None:
    p = np.array([[0.0, 0.25, 0.5, 0.9, 1.0]], np.float64)
    found = coarse_logits(p, "probability", 1, (1, 5))[0, 0, 0]
    assert found.tolist() == pytest.approx([-6, -np.log(3), 0, np.log(9), 6], abs=1e-5)


def test_with_two_channels_the_difference_is_the_logit() -> None:
    p = np.array([[0.2, 0.7]], np.float32)
    found = coarse_logits(p, "probability", 2, (1, 2))
    assert torch.sigmoid(found[0, 1] - found[0, 0])[0].tolist() == pytest.approx([0.2, 0.7])


def test_shrinking_averages_the_mask() -> None:
    ids = np.zeros((8, 8), np.uint8)
    ids[:, 4:] = 1
    found = coarse_logits(ids, "labels", 1, (4, 4))[0, 0]
    assert (found[:, 0] < -5).all()
    assert (found[:, 3] > 5).all()
    assert torch.allclose(found, -found.flip(1), atol=1e-5)


def test_the_standing_is_that_of_the_image() -> None:
    found = coarse_logits(IDS, "labels", 1, (2, 3), lambda a: a[::-1])
    assert found.tolist() == [[[[6, -6, -6], [-6, 6, -6]]]]


@pytest.mark.parametrize(
    ("pixels", "kind", "channels", "words"),
    [
        (IDS, "labels", 3, "ids from 0 to 7, expected 0 to 2"),
        (IDS - 9, "labels", 3, "ids from -9 to -2"),
        (IDS / 7, "labels", 1, "take the layer as a probability"),
        (IDS / 7, "probability", 3, "tells 3 classes apart"),
        (IDS.astype(float), "probability", 1, "values from 0 to 7, expected a probability"),
        (IDS, "mask", 1, "expected labels or probability"),
    ],
)
def test_what_makes_no_sense_is_said(
    pixels: np.ndarray, kind: str, channels: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        coarse_logits(pixels, kind, channels, (2, 3))


def test_an_array_of_another_image_is_refused() -> None:
    stack = np.zeros((2, 3, 4), np.uint8)
    assert slice_of(stack, 1, (2, 3, 4), "labels", "choose").shape == (3, 4)
    with pytest.raises(InputError, match=r"got labels of 2 x 3 x 4, expected 2 x 4 x 3 .*choose"):
        slice_of(stack, 1, (2, 4, 3), "labels", "choose")


def test_a_digest_tells_content_kind_and_type() -> None:
    same = digest(IDS, "labels")
    assert same == digest(np.asfortranarray(IDS), "labels")
    others = {digest(IDS + 1, "labels"), digest(IDS, "probability"), digest(IDS.T, "labels")}
    assert len({same, digest(IDS.astype(np.int16), "labels"), *others}) == 5


def test_a_thin_line_survives_any_shrinking() -> None:
    strokes = np.zeros((60, 45), np.uint8)
    strokes[:, 17] = 2
    for size in ((60, 45), (16, 16), (7, 5)):
        cells = at_working_size(strokes, size)
        assert cells.shape == size
        assert (cells == 2).any(1).all()
        assert set(np.unique(cells)) == {0, 2}


def test_a_cell_takes_the_class_with_most_pixels_of_equals_the_smaller() -> None:
    strokes = np.array([[1, 3, 3, 0], [1, 3, 3, 3], [2, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
    assert at_working_size(strokes, (2, 2)).tolist() == [[1, 3], [1, 0]]


def test_enlarging_covers_every_painted_pixel() -> None:
    strokes = np.zeros((5, 4), np.uint8)
    strokes[3, 1] = 1
    cells = at_working_size(strokes, (10, 8))
    assert (cells[6:8, 2:4] == 1).all()
    assert np.count_nonzero(cells) == 4


def test_anchors_hold_the_classes_painted() -> None:
    strokes = np.array([[0, 1, 2]], np.uint8)
    one = anchors(strokes, 1, 0.25, torch.device("cpu"))
    assert one.logits.tolist() == [[[[0, -6, 6]]]]
    assert one.weight.tolist() == [[[[0, 0.25, 0.25]]]]
    several = anchors(np.array([[1, 3]], np.uint8), 3, 1.0, torch.device("cpu"))
    assert several.logits[0, :, 0].T.tolist() == [[6, -6, -6], [-6, -6, 6]]


def test_a_label_beyond_the_classes_is_refused() -> None:
    check_strokes(np.array([[2]], np.uint8), 1)
    with pytest.raises(InputError, match="label 3, expected at most 2"):
        check_strokes(np.array([[3]], np.uint8), 1)
    check_strokes(np.array([[3]], np.uint8), 3)


def test_windows_of_what_changed() -> None:
    before = np.zeros((2, 9, 11), np.uint8)
    after = before.copy()
    assert changed_box(before, after) is None
    after[0, 2, 3] = after[1, 5, 8] = 1
    box = changed_box(before, after)
    assert box == (slice(2, 6), slice(3, 9))
    assert box is not None
    assert grown(box, 3, (9, 11)) == (slice(0, 9), slice(0, 11))
    assert grown(box, 1, (9, 11)) == (slice(1, 7), slice(2, 10))


@pytest.mark.parametrize(("channels", "sure"), [(1, 6.0), (3, 12.0)])
def test_painted_pixels_get_their_class(channels: int, sure: float) -> None:
    strokes = np.array([[0, 1, 2]], np.uint8)
    labels = np.array([[1, 1, 0]], np.uint8)
    probability = np.full((1, 3), 0.5, np.float32)
    hold_pixels(strokes, labels, probability, channels)
    assert labels.tolist() == [[1, 0, 1]]
    low, high = 1 / (1 + np.exp(sure)), 1 / (1 + np.exp(-sure))
    assert probability[0].tolist() == pytest.approx([0.5, low, high])
