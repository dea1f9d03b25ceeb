"""Ids beyond 255 on a layer that a person has converted: painted, taken back, killed, restored."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.layers._layer_actions import _convert_dtype

from napari_attnseg.cli.restore import _labels
from napari_attnseg.errors import InputError
from napari_attnseg.io.journal_folder import left_behind
from napari_attnseg.viewer import journal_tiles
from napari_attnseg.viewer.edits import HandEdits
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.journal_restore import restore
from napari_attnseg.viewer.layers import volume_to_layer_data
from napari_attnseg.viewer.unpacking import read_for_window

pytestmark = pytest.mark.gui
SHAPE = (3, 11, 13)
IDS = (0, 1, 3, 255, 256, 300, 70_000, 2_000_000_000, -5)


def stroke(edits: HandEdits, spot: tuple[int, int, int], value: int) -> None:
    edits.layer.data_setitem(tuple(np.array([n]) for n in spot), value)


@pytest.mark.parametrize("ids", [IDS, (0, 5, 255)])
def test_codes_keep_every_id(ids: tuple[int, ...]) -> None:
    """Oracle: a dictionary of single pixels."""
    rng, key = np.random.default_rng(0), (0, 0, 0)
    held, twin = journal_tiles.HeldTiles((1, 5, 7)), {}
    for _ in range(60):
        spot, value = (int(rng.integers(5)), int(rng.integers(7))), int(rng.choice(ids))
        where, values = np.zeros((5, 7), bool), np.full((5, 7), value)
        where[spot] = True
        held.put(key, journal_tiles.with_held(held.codes(key), where, values))
        twin[spot] = value
        codes = held.codes(key)
        found = np.argwhere(journal_tiles.is_held(codes))
        assert {tuple(p): journal_tiles.ids_of(codes)[tuple(p)] for p in found.tolist()} == twin
        assert held.count == len(twin)
    wide = max(ids) > 255
    assert codes.dtype == (np.uint64 if wide else np.uint16), "usual tiles stay as they were"


def test_random_strokes_and_steps_agree_with_a_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_tiles, "TILE", 4)
    edits = HandEdits(Labels(np.zeros(SHAPE, np.uint8)), SHAPE)
    edits.layer.data = edits.layer.data.astype(np.int32)
    rng = np.random.default_rng(3)
    model, strokes, undone = np.zeros(SHAPE, np.int32), [], []
    for _ in range(150):
        what = rng.integers(4)
        if what == 0:
            z = int(rng.integers(3))
            model[z] = rng.integers(0, 3, SHAPE[1:])
            edits.write(z, model[z])
        elif what == 1:
            spot, value = tuple(int(rng.integers(n)) for n in SHAPE), int(rng.choice(IDS))
            if edits.layer.data[spot] != value:
                strokes.append((spot, value))
                undone.clear()
            stroke(edits, spot, value)
        elif what == 2:
            undone += [strokes.pop()] if strokes else []
            edits.layer.undo()
        else:
            strokes += [undone.pop()] if undone else []
            edits.layer.redo()
        expected = model.copy()
        for spot, value in strokes:
            expected[spot] = value
        np.testing.assert_array_equal(edits.layer.data, expected)


def test_a_step_that_no_longer_fits_the_layer_makes_it_wider() -> None:
    edits = HandEdits(Labels(np.zeros(SHAPE, np.int32)), SHAPE)
    stroke(edits, (1, 2, 3), 70_000)
    edits.layer.undo()
    edits.layer.data = edits.layer.data.astype(np.uint8)
    edits.layer.redo()
    assert edits.layer.data[1, 2, 3] == 70_000
    assert edits.layer.data.dtype == np.int32


def test_tidying_keeps_what_the_type_of_the_layer_holds() -> None:
    edits = HandEdits(Labels(np.zeros(SHAPE, np.uint16)), SHAPE)
    stroke(edits, (1, 2, 3), 300)
    assert edits.apply("larger", lambda now: np.where(now == 300, 500, now)) == 1
    assert edits.layer.data[1, 2, 3] == 500
    with pytest.raises(InputError, match="0 to 65535"):
        edits.apply("too large", lambda now: now.astype(np.int32) + 70_000)
    assert edits.layer.data.max() == 500


@pytest.fixture
def hub(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Hub]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    made: list[tuple[Hub, ViewerModel]] = []

    def make() -> Hub:
        viewer = ViewerModel()
        made.append((Hub(viewer), viewer))
        made[-1][0].set_model(str(tiny_checkpoint))
        return made[-1][0]

    yield make
    for one, _ in made:
        one.close()


def test_painted_taken_back_killed_and_restored(hub: Callable[[], Hub], tmp_path: Path) -> None:
    first, path = hub(), tmp_path / "scan.tif"
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), photometric="minisblack")
    image: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
    first.set_source(first.viewer.add_layer(image))
    results = first.results_for(SHAPE)
    labels = results.ensure_labels()
    assert first.keeper.attach(results) is not None
    labels.paint((0, 5, 5), 2)
    first.viewer.layers.selection = {labels}
    _convert_dtype(first.viewer.layers, mode="int32")  # napari's own menu
    assert labels.data.dtype == np.int32
    labels.brush_size = 1
    for z, value in ((1, 300), (2, 70_000), (2, 9)):
        labels.paint((z, 5, 5), value)
    labels.undo()
    assert labels.data[2, 5, 5] == 70_000
    labels.undo()
    assert labels.data[2, 5, 5] == 0
    labels.redo()
    now = np.array(labels.data)
    assert sorted(np.unique(now)) == [0, 2, 300, 70_000]
    assert first.keeper.kept(results)
    (mine,) = (tmp_path / "journals").glob("open-*")
    shutil.copytree(mine, tmp_path / "journals" / "open-4194305-1")
    (left,) = left_behind()
    np.testing.assert_array_equal(_labels(left), now)  # the command line
    second = hub()
    restore(second, left)
    again = second.results
    assert again is not None
    assert again.labels is not None
    assert again.edits is not None
    np.testing.assert_array_equal(again.labels.data, now)
    assert again.labels.data.dtype == np.int32
    again.edits.write(2, np.ones(SHAPE[1:], np.uint8))
    assert again.labels.data[2, 5, 5] == 70_000, "what was painted is still held"
    assert second.keeper.kept(again)
