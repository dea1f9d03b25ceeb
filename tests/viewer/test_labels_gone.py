"""Labels that leave the layer list, come back, or are given pixels of another shape."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.viewer import memory
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.refined import RefinedLayers
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui
SHAPE = (3, 20, 30)


@pytest.fixture
def hub(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, ViewerModel]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(memory, "DISK_BYTES", 0)  # every volume lies in a file
    viewer = ViewerModel()
    viewer.add_image(np.zeros(SHAPE, np.uint8), contrast_limits=(0, 1), name="ct")
    made = Hub(viewer)
    made.set_model(str(tiny_checkpoint))
    yield made, viewer
    made.close()


def painted(hub: Hub) -> ResultLayers:
    """Labels with an answer and a stroke, and a journal."""
    results = hub.results_for(SHAPE)
    labels = results.ensure_labels()
    assert hub.keeper.attach(results) is not None
    assert results.edits is not None
    results.edits.begin_run()
    for z in range(3):
        results.write_labels(z, np.full(SHAPE[1:], 2, np.uint8))
    labels.data_setitem((np.array([1]), np.array([5]), np.array([6])), 1)
    assert results.edits.count == 1
    return results


def stored(tmp_path: Path) -> int:
    return len(list((tmp_path / "scratch").glob("*/layer*/voxels.npy")))


def test_removed_labels_leave_memory_and_disk(hub: tuple[Hub, ViewerModel], tmp_path: Path) -> None:
    one, viewer = hub
    results = painted(one)
    edits, labels = weakref.ref(results.edits), weakref.ref(results.labels)
    assert stored(tmp_path) == 2
    told: list[object] = []
    one.results_changed.connect(told.append)
    viewer.layers.remove(labels())
    viewer.layers.selection.active = viewer.layers[0]  # napari keeps the last one that was chosen
    gc.collect()
    assert edits() is None
    assert labels() is None
    assert stored(tmp_path) == 0
    assert told == [results]
    assert results.layer("labels") is None
    assert results.edits is None
    assert len(list((tmp_path / "journals").rglob("*.journal"))) == 1  # a person may have slipped
    results.write_labels(0, np.ones(SHAPE[1:], np.uint8))  # an answer that was on its way
    again = results.ensure_labels()
    assert again in viewer.layers
    assert not again.data.any()


def test_labels_that_come_back_have_their_steps(hub: tuple[Hub, ViewerModel]) -> None:
    one, viewer = hub
    results = painted(one)
    labels, edits = results.labels, results.edits
    viewer.layers.remove(labels)
    assert results.labels is None
    gc.collect()
    viewer.add_layer(labels)
    assert results.labels is labels
    assert results.edits is edits
    assert edits.recorder is not None  # there is a journal again, with all of it
    assert one.keeper.kept(results)
    labels.undo()
    assert (labels.data == 2).all()
    labels.undo()
    assert not labels.data.any()


def test_labels_made_meanwhile_are_the_ones(hub: tuple[Hub, ViewerModel]) -> None:
    one, viewer = hub
    results = painted(one)
    old = results.labels
    viewer.layers.remove(old)
    new = results.ensure_labels()
    viewer.add_layer(old)
    assert results.labels is new
    results.write_labels(0, np.full(SHAPE[1:], 1, np.uint8))
    assert (new.data[0] == 1).all()
    assert (old.data[0] == 2).all()


def test_pixels_of_another_shape_make_the_layer_the_persons(hub: tuple[Hub, ViewerModel]) -> None:
    one, _ = hub
    results = painted(one)
    labels, edits = results.labels, weakref.ref(results.edits)
    told: list[str] = []
    one.live.note.connect(told.append)
    labels.data = np.zeros((2, 7, 11), np.uint8)
    assert len(told) == 1
    assert "shape (2, 7, 11) in place of (3, 20, 30)" in told[0]
    assert "new layer" in told[0]
    assert METADATA not in labels.metadata
    gc.collect()
    assert edits() is None
    labels.data_setitem((np.array([1]), np.array([5]), np.array([6])), 3)  # painting goes on
    labels.undo()  # napari's own
    assert not labels.data.any()
    results.write_labels(0, np.ones(SHAPE[1:], np.uint8))  # on its way: nothing happens
    fresh = results.ensure_labels()
    assert fresh is not labels
    results.write_labels(0, np.ones(SHAPE[1:], np.uint8))
    assert (fresh.data[0] == 1).all()
    assert not labels.data.any()
    assert len(told) == 1


def test_pixels_of_the_same_shape_are_painted_ones(hub: tuple[Hub, ViewerModel]) -> None:
    one, _ = hub
    results = painted(one)
    labels, told = results.labels, []
    one.live.note.connect(told.append)
    labels.data = np.full(SHAPE, 4, np.uint8)
    results.write_labels(0, np.ones(SHAPE[1:], np.uint8))
    assert (labels.data[0] == 4).all()
    assert results.labels is labels
    assert not told


def test_a_picture_of_two_axes_given_a_volume(hub: tuple[Hub, ViewerModel]) -> None:
    one, viewer = hub
    one.set_source(viewer.add_image(np.zeros((9, 13), np.uint8), contrast_limits=(0, 1)))
    results = one.results_for((1, 9, 13))
    labels = results.ensure_labels()
    told: list[str] = []
    one.live.note.connect(told.append)
    labels.data = np.ones((9, 13), np.uint8)
    assert not told
    labels.data = np.ones((13, 9), np.uint8)
    assert "(13, 9) in place of (9, 13)" in told[0]


def test_refined_labels_go_and_misfit_alike(hub: tuple[Hub, ViewerModel]) -> None:
    one, viewer = hub
    layers = RefinedLayers(viewer, one.source, "net", None, one.scratch)
    told: list[tuple[object, str]] = []
    layers.lost.connect(lambda *what: told.append(what))
    labels = layers.ensure_labels()
    assert one.keeper.attach(layers) is not None
    viewer.layers.remove(labels)
    assert layers.labels is layers.edits is None
    assert not one.keeper.kept(layers)
    viewer.add_layer(labels)
    assert layers.labels is labels
    labels.data = np.zeros((1, 2, 3), np.uint8)
    assert layers.labels is None
    assert [words.partition(" were ")[0] for _, words in told] == ["", "", "The labels of ct"]
    layers.take(0, np.ones(SHAPE[1:], np.uint8), None)
    assert layers.labels.data[0].all()
