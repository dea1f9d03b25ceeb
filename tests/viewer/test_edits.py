"""Hand edits against napari's real Labels layer: its paint, fill, undo and redo."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels

from napari_attnseg.viewer.edits import HandEdits

pytestmark = pytest.mark.gui

SHAPE = (3, 11, 13)


@pytest.fixture
def edits() -> HandEdits:
    return HandEdits(Labels(np.zeros(SHAPE, np.uint8)), SHAPE)


def stroke(edits: HandEdits, z: int, y: int, x: int, value: int) -> None:
    edits.layer.data_setitem((np.array([z]), np.array([y]), np.array([x])), value)


def test_model_answers_never_overwrite_what_was_painted(edits: HandEdits) -> None:
    edits.write(1, np.ones(SHAPE[1:], np.uint8))
    stroke(edits, 1, 4, 5, 3)
    edits.write(1, np.full(SHAPE[1:], 2, np.uint8))
    assert edits.layer.data[1, 4, 5] == 3
    assert (edits.layer.data[1] == 2).sum() == 11 * 13 - 1
    assert edits.count == 1


def test_erasing_is_an_edit_too(edits: HandEdits) -> None:
    edits.write(0, np.ones(SHAPE[1:], np.uint8))
    stroke(edits, 0, 2, 2, 0)
    edits.write(0, np.ones(SHAPE[1:], np.uint8))
    assert edits.layer.data[0, 2, 2] == 0


def test_undo_shows_what_the_model_says_now(edits: HandEdits) -> None:
    stroke(edits, 0, 2, 2, 3)
    edits.write(0, np.full(SHAPE[1:], 2, np.uint8))
    edits.layer.undo()
    assert edits.layer.data[0, 2, 2] == 2, "not the 0 from before the stroke"
    assert edits.count == 0
    edits.layer.redo()
    assert edits.layer.data[0, 2, 2] == 3
    edits.write(0, np.full(SHAPE[1:], 1, np.uint8))
    assert edits.layer.data[0, 2, 2] == 3
    assert edits.count == 1


def test_undo_of_a_second_stroke_keeps_the_first(edits: HandEdits) -> None:
    stroke(edits, 0, 2, 2, 3)
    stroke(edits, 0, 2, 2, 4)
    edits.layer.undo()
    edits.write(0, np.ones(SHAPE[1:], np.uint8))
    assert edits.layer.data[0, 2, 2] == 3


def test_an_answer_that_comes_in_the_middle_of_a_stroke(edits: HandEdits) -> None:
    edits.layer._begin_stroke()
    stroke(edits, 0, 1, 1, 3)
    edits.write(0, np.full(SHAPE[1:], 2, np.uint8))
    stroke(edits, 0, 1, 2, 3)
    edits.layer._commit_stroke()
    assert list(edits.layer.data[0, 1, :4]) == [2, 3, 3, 2]
    edits.layer.undo()
    assert (edits.layer.data[0] == 2).all()
    assert edits.count == 0


def test_reset_drops_all_and_is_itself_undone(edits: HandEdits) -> None:
    for z in range(3):
        edits.write(z, np.ones(SHAPE[1:], np.uint8))
    stroke(edits, 0, 2, 2, 3)
    stroke(edits, 2, 3, 3, 0)
    assert edits.reset() == 2
    assert (edits.layer.data == 1).all()
    assert edits.count == 0
    edits.layer.undo()
    assert edits.layer.data[0, 2, 2] == 3
    assert edits.layer.data[2, 3, 3] == 0
    assert edits.count == 2


def test_paint_and_fill_of_napari_on_a_2d_layer() -> None:
    layer = Labels(np.zeros((11, 13), np.uint8))
    edits = HandEdits(layer, (1, 11, 13))
    layer.brush_size = 3
    layer.paint((5, 5), 7)
    edits.write(0, np.ones((11, 13), np.uint8))
    painted = layer.data == 7
    assert 1 < painted.sum() < 12
    assert (layer.data[~painted] == 1).all()
    layer.fill((0, 0), 4)
    edits.write(0, np.zeros((11, 13), np.uint8))
    assert (layer.data[~painted] == 4).all()
    layer.undo()
    assert (layer.data[~painted] == 0).all()
    assert (layer.data[painted] == 7).all()


def test_random_sequences_agree_with_a_slow_twin(edits: HandEdits) -> None:
    """Twin: a list of strokes replayed over the model's last answer."""
    rng = np.random.default_rng(3)
    model, strokes, undone = np.zeros(SHAPE, np.uint8), [], []
    for _ in range(200):
        what = rng.integers(4)
        if what == 0:
            z = int(rng.integers(3))
            model[z] = rng.integers(0, 3, SHAPE[1:])
            edits.write(z, model[z])
        elif what == 1:
            spot = tuple(np.array([int(rng.integers(n))]) for n in SHAPE)
            value = int(rng.integers(0, 5))
            if edits.layer.data[spot] != value:  # napari records only pixels that change
                strokes.append((spot, value))
                undone.clear()
            edits.layer.data_setitem(spot, value)
        elif what == 2:
            if strokes:
                undone.append(strokes.pop())
            edits.layer.undo()
        else:
            if undone:
                strokes.append(undone.pop())
            edits.layer.redo()
        expected = model.copy()
        for spot, value in strokes:
            expected[spot] = value
        np.testing.assert_array_equal(edits.layer.data, expected)
