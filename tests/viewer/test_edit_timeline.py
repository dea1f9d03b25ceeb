"""One line of steps over strokes, answers, threshold moves, post-processing and resets."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels

from napari_attnseg.errors import InputError
from napari_attnseg.viewer import journal_steps, journal_tiles
from napari_attnseg.viewer.edits import HandEdits

pytestmark = pytest.mark.gui

SHAPE = (3, 11, 13)


@pytest.fixture(params=["memory", "disk"])
def edits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HandEdits:
    """Tiles of 4 x 4, so that steps cross tiles; once with every step on disk."""
    monkeypatch.setattr(journal_tiles, "TILE", 4)
    if request.param == "disk":
        monkeypatch.setattr(journal_steps, "MEMORY_BYTES", 0)
    return HandEdits(Labels(np.zeros(SHAPE, np.uint8)), SHAPE)


def stroke(edits: HandEdits, z: int, y: int, x: int, value: int) -> None:
    edits.layer.data_setitem((np.array([z]), np.array([y]), np.array([x])), value)


def answer(edits: HandEdits, value: int, slices: tuple[int, ...] = (0, 1, 2)) -> None:
    for z in slices:
        edits.write(z, np.full(SHAPE[1:], value, np.uint8))


def test_a_drag_of_the_threshold_is_one_step_with_its_value(edits: HandEdits) -> None:
    edits.tuned("start")
    edits.begin_run()
    answer(edits, 1)
    for value, name in ((2, "a"), (3, "b"), (4, "c")):
        edits.tuned(name)
        answer(edits, value, (1,))
    edits.released()
    answer(edits, 4, (0, 2))  # the other slices follow when the hand lets go
    edits.tuned("d")
    answer(edits, 5, (1,))
    went = []
    edits.travelled.connect(lambda step, back: went.append((step.before, step.after, back)))
    edits.layer.undo()
    assert (edits.data == 4).all()
    assert edits.tuning == "c"
    edits.layer.undo()
    assert (edits.data == 1).all()
    assert edits.tuning == "start"
    edits.layer.undo()
    assert (edits.data == 0).all()
    for _ in range(3):
        edits.layer.redo()
    assert [int(edits.data[z].max()) for z in range(3)] == [4, 5, 4]
    assert edits.tuning == "d"
    assert went[0] == ("c", "d", True)
    assert went[1] == ("start", "c", True)


def test_a_move_that_changed_nothing_is_no_step(edits: HandEdits) -> None:
    stroke(edits, 1, 2, 3, 7)
    edits.tuned("elsewhere")
    answer(edits, 0)
    edits.released()
    edits.layer.undo()
    assert not edits.data.any()


def test_a_move_whose_answer_is_on_its_way_is_taken_back(edits: HandEdits) -> None:
    stroke(edits, 1, 2, 3, 7)
    edits.tuned("elsewhere")
    edits.layer.undo()
    assert edits.tuning is None
    assert edits.data[1, 2, 3] == 7
    edits.layer.redo()
    assert edits.tuning is None, "there is no answer to bring again"


def test_strokes_during_a_run_are_taken_back_before_it(edits: HandEdits) -> None:
    edits.begin_run()
    answer(edits, 1, (1,))
    stroke(edits, 1, 4, 5, 3)
    answer(edits, 1, (0, 2))
    edits.layer.undo()
    assert (edits.data == 1).all()
    edits.layer.undo()
    assert not edits.data.any()
    edits.layer.redo()
    edits.layer.redo()
    assert edits.data[1, 4, 5] == 3
    assert (edits.data == 1).sum() == np.prod(SHAPE) - 1


def test_a_step_of_processing_is_held_and_taken_back(edits: HandEdits) -> None:
    answer(edits, 1)
    edits.data[:, :4] = 0
    edits.model[:, :4] = 0
    assert edits.apply("crop", lambda old: np.where(np.arange(13) < 5, old, 0)) == 3 * 7 * 8
    answer(edits, 1)
    assert not edits.data[:, 4:, 5:].any(), "a later answer leaves it alone"
    edits.layer.undo()
    assert (edits.data == 1).all(), "what the model says now"
    edits.layer.redo()
    assert not edits.data[:, 4:, 5:].any()


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 11, 12)), np.full(SHAPE, 256), np.zeros(SHAPE, float), None]
)
def test_labels_that_do_not_fit_change_nothing(edits: HandEdits, bad: object) -> None:
    answer(edits, 2)
    with pytest.raises(InputError, match=r"\(3, 11, 13\)"):
        edits.apply("bad", lambda _: bad)
    with pytest.raises(ValueError, match="read-only"):
        edits.apply("in place", lambda old: old.__setitem__(0, 9))
    assert (edits.data == 2).all()
    assert edits.count == 0


def test_what_code_set_without_napari_is_a_step_of_its_own(edits: HandEdits) -> None:
    stroke(edits, 0, 1, 1, 2)
    edits.data[0, 8, 8] = 5
    edits.absorb(0)
    edits.layer.undo()
    assert edits.data[0, 8, 8] == 0
    assert edits.data[0, 1, 1] == 2
    edits.layer.redo()
    assert edits.data[0, 8, 8] == 5


def test_a_fill_in_3d_touches_only_its_tiles(edits: HandEdits) -> None:
    layer = edits.layer
    layer.n_edit_dimensions = 3
    layer.mode = "fill"
    layer.fill((1, 5, 5), 6)
    assert (layer.data == 6).all()
    assert edits.count == np.prod(SHAPE)
    assert edits.timeline.undo[-1].kind == "fill"
    layer.undo()
    assert not layer.data.any()
    assert edits.count == 0
    assert not edits.planes.held.everywhere()


class Twin:
    """Model, held pixels and value, copied whole before every step."""

    def __init__(self) -> None:
        self.model, self.held, self.tuning = np.zeros(SHAPE, np.uint8), {}, None
        self.undo: list[tuple] = []
        self.redo: list[tuple] = []

    def shown(self) -> np.ndarray:
        out = self.model.copy()
        for spot, value in self.held.items():
            out[spot] = value
        return out

    def state(self) -> tuple:
        return self.model.copy(), dict(self.held), self.tuning

    def step(self, before: tuple) -> None:
        if self.held != before[1] or not np.array_equal(self.model, before[0]):
            self.undo.append(before)
            self.redo.clear()

    def travel(self, source: list[tuple], target: list[tuple]) -> None:
        if source:
            target.append(self.state())
            self.model, self.held, self.tuning = source.pop()


def strike(edits: HandEdits, twin: Twin, rng: np.random.Generator) -> None:
    spot, value = tuple(int(rng.integers(n)) for n in SHAPE), int(rng.integers(5))
    if edits.data[spot] != value:
        twin.held[spot] = value
    stroke(edits, *spot, value)


def answer_some(edits: HandEdits, twin: Twin, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        twin.tuning = float(rng.random())
        edits.tuned(twin.tuning)
    else:
        edits.begin_run()
    for z in rng.permutation(3)[: rng.integers(1, 4)]:
        fresh = rng.random(SHAPE[1:]) < 0.3
        twin.model[z] = np.where(fresh, twin.model[z] + 1 & 3, twin.model[z])
        edits.write(int(z), twin.model[z])
    edits.released()


def process(edits: HandEdits, twin: Twin, rng: np.random.Generator) -> None:
    lost = int(rng.integers(5))
    for spot in np.argwhere(twin.shown() == lost):
        twin.held[tuple(int(n) for n in spot)] = (lost + 1) % 5
    edits.apply("swap", lambda old: np.where(old == lost, (lost + 1) % 5, old))


def reset(edits: HandEdits, twin: Twin, rng: np.random.Generator) -> None:
    if rng.random() < 0.3:
        twin.held = {}
        edits.reset()


def test_random_steps_agree_with_a_twin_that_keeps_whole_copies(edits: HandEdits) -> None:
    rng, twin = np.random.default_rng(11), Twin()
    doing = (strike, answer_some, process, reset)
    for number in range(300):
        what = int(rng.integers(7))
        if what < 4:
            before = twin.state()
            doing[what](edits, twin, rng)
            twin.step(before)
        elif what < 6:
            twin.travel(twin.undo, twin.redo)
            edits.layer.undo()
        else:
            twin.travel(twin.redo, twin.undo)
            edits.layer.redo()
        np.testing.assert_array_equal(edits.data, twin.shown(), err_msg=f"step {number}")
        assert edits.count == len(twin.held)
        assert edits.tuning == twin.tuning
