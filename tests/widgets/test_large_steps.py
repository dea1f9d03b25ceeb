"""Large steps are made in turns of the window, and are one step whatever happens between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels

from napari_attnseg.viewer import dispatching, edits_behind, journal_tiles
from napari_attnseg.viewer.edits import HandEdits
from napari_attnseg.viewer.journal_planes import Planes

pytestmark = pytest.mark.gui
SHAPE = (12, 11, 13)
SEEN = 7


class Book:
    """Keeps what a journal would hold: the last of each tile."""

    def __init__(self) -> None:
        self.pages: dict[Any, bytes] = {}

    def changed(self, what: str, pages: Mapping[Any, bytes]) -> None:
        self.pages |= pages

    def shown(self) -> np.ndarray:
        planes = Planes(SHAPE, np.zeros(SHAPE, np.uint8))
        for page, data in self.pages.items():
            planes.put_packed(page, data)
        return np.stack([planes.shown(z) for z in range(SHAPE[0])])


class Window:
    def __init__(self) -> None:
        self.turns: list[Any] = []
        self.edits = HandEdits(Labels(np.zeros(SHAPE, np.uint8)), SHAPE, lambda: (SEEN,))
        self.book = self.edits.recorder = Book()

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(self.edits.layer.data)

    def turn(self) -> None:
        self.turns.pop(0)()

    def rest(self) -> None:
        while self.turns:
            self.turn()

    def answer(self, value: int) -> None:
        self.edits.begin_run()
        for z in range(SHAPE[0]):
            self.edits.write(z, np.full(SHAPE[1:], value, np.uint8))

    def paint(self, z: int, value: int) -> None:
        place = (np.array([z]), np.array([5]), np.array([6]))
        self.edits.layer.data_setitem(place, value)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    monkeypatch.setattr(journal_tiles, "TILE", 4)  # 12 tiles in a slice
    monkeypatch.setattr(edits_behind, "TURN_S", 0.0)  # one tile a turn
    made = Window()
    monkeypatch.setattr(dispatching, "_turns", made.turns.append)
    return made


def test_the_seen_slice_at_once_and_the_others_in_turns(window: Window) -> None:
    window.answer(1)
    window.answer(2)
    window.edits.layer.undo()
    changed = (window.pixels == 1).all(axis=(1, 2))
    assert changed.nonzero()[0].tolist() == [SEEN]
    assert (window.book.shown() == 1).all()  # whoever is killed now finds the whole step
    window.turn()
    assert np.count_nonzero(window.pixels == 1) == 11 * 13 + 4 * 4  # beside it, a tile
    window.rest()
    assert (window.pixels == 1).all()
    window.edits.layer.redo()
    window.rest()
    assert (window.pixels == 2).all()


def test_a_stroke_between_is_a_step_of_its_own(window: Window) -> None:
    window.answer(1)
    window.edits.layer.undo()
    window.turn()
    window.paint(SEEN, 5)  # changed already
    window.paint(0, 6)  # not yet
    assert window.pixels[0, 5, 6] == 6
    assert window.pixels[0, 5, 7] == 0  # its tile was changed under the stroke
    window.rest()
    expected = np.zeros(SHAPE, np.uint8)
    expected[SEEN, 5, 6], expected[0, 5, 6] = 5, 6
    assert np.array_equal(window.pixels, expected)
    assert np.array_equal(window.book.shown(), expected)
    window.edits.layer.undo()
    window.edits.layer.undo()
    assert not window.pixels.any()


def test_an_answer_between_is_newer(window: Window) -> None:
    window.paint(3, 9)
    window.answer(1)
    window.edits.layer.undo()
    window.edits.begin_run()
    window.edits.write(3, np.full(SHAPE[1:], 4, np.uint8))
    window.rest()
    expected = np.zeros(SHAPE, np.uint8)
    expected[3] = 4
    expected[3, 5, 6] = 9
    assert np.array_equal(window.pixels, expected)
    assert np.array_equal(window.book.shown(), expected)


def test_undo_of_an_undo_completes_it_first(window: Window) -> None:
    window.answer(1)
    window.answer(2)
    window.edits.layer.undo()
    window.turn()
    window.edits.layer.undo()
    window.rest()
    assert not window.pixels.any()
    for value in (1, 2):
        window.edits.layer.redo()
        window.turn()
        window.edits.complete()
        assert (window.pixels == value).all()
    window.rest()
    assert (window.pixels == 2).all()


def test_who_asks_for_all_gets_all(window: Window) -> None:
    window.answer(1)
    window.edits.layer.undo()
    assert window.pixels.any()
    assert not window.edits.planes.model.any()
    assert not window.pixels.any()


def test_processing_in_turns_is_what_it_was_asked_for(window: Window) -> None:
    window.answer(1)
    new = np.full(SHAPE, 1, np.uint8)
    new[:, 2:9] = 3
    assert window.edits.apply("band", lambda _: new) == 12 * 7 * 13
    assert np.array_equal(window.pixels[SEEN], new[SEEN])
    assert not (window.pixels[0] == 3).any()
    assert (window.book.shown() == 1).all()  # killed now, nothing of it was done
    window.paint(0, 6)
    window.rest()
    expected = new.copy()
    expected[0, 5, 6] = 6
    assert np.array_equal(window.pixels, expected)
    assert np.array_equal(window.book.shown(), expected)
    window.edits.layer.undo()
    window.edits.layer.undo()
    window.rest()
    assert (window.pixels == 1).all()
    assert window.edits.count == 0


def test_painting_by_code_between_is_not_lost(window: Window) -> None:
    window.answer(1)
    window.edits.layer.undo()
    window.pixels[SEEN, 0, 0] = 8  # no event tells of it
    window.edits.absorb(SEEN)
    window.rest()
    expected = np.zeros(SHAPE, np.uint8)
    expected[SEEN, 0, 0] = 8
    assert np.array_equal(window.pixels, expected)
