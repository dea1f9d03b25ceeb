"""The layers of a run are made one a turn of the window, and none of them misses a slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.viewer.answers import Answers
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui


class Window:
    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.viewer = ViewerModel()
        self.pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 48)).astype(np.uint8)
        image = self.viewer.add_image(self.pixels, name="ct", contrast_limits=(0, 255))
        self.live = LiveController(InProcessClient(), Scratch(folder))
        self.turns: list[Callable[[], None]] = []
        self.begun: list[Any] = []
        self.answers = Answers(self.live, self.begun.append, self.turns.append)
        self.answers.layers = ResultLayers(self.viewer, image, "tiny")
        self.live.open_image(self.pixels)
        self.live.set_model(str(checkpoint))

    @property
    def names(self) -> list[str]:
        return sorted(layer.name.split("_")[-1] for layer in self.viewer.layers)


@pytest.fixture
def window(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Window]:
    made = Window(tmp_path, tiny_checkpoint)
    yield made
    made.live.client.close()
    made.live.scratch.close()


ALL = ["ct", "labels", "probability", "received", "step"]


def test_one_a_turn_with_the_slices_that_came_before(window: Window) -> None:
    seen: list[list[str]] = []
    window.live.slice_done.connect(lambda event: seen.append(window.names))
    window.live.slice_done.connect(lambda event: window.turns and window.turns.pop(0)())
    window.answers.run()
    assert seen[0] == seen[1] == ["ct", "labels"]  # the docks had the turn between
    assert seen[2] == ["ct", "labels"]  # and so had the maps of the first slice
    assert seen[3] == ["ct", "labels", "probability"]
    while window.turns:
        window.turns.pop(0)()
    assert window.names == ALL
    assert len(window.begun) == 2
    files = window.live.state.results
    assert files is not None
    for what in ("probability", "step", "received"):
        assert np.array_equal(window.answers.layers.maps[what].data, files.array(what)), what


def test_labels_come_at_once_and_maps_a_turn_later(window: Window) -> None:
    window.answers.run()
    while window.turns:
        window.turns.pop(0)()
    layers = window.answers.layers
    assert layers is not None
    for layer in (layers.labels, layers.maps["probability"]):
        layer.data[:] = 0
    layers.edits.model[:] = 0
    told: list[tuple[bool, bool]] = []

    def look(event: Any) -> None:
        shown = layers.labels.data, layers.maps["probability"].data
        told.append(tuple(bool(data[event.z].any()) for data in shown))

    window.live.slice_done.connect(look)
    window.live.set_tuning(window.live.state.tuning.replace(cut=0.01))
    window.answers.run()
    assert told[1:] == [(True, False)] * 4  # the first was seen, and answered before
    while window.turns:
        window.turns.pop(0)()
    assert window.answers.layers.maps["probability"].data.any(axis=(1, 2)).all()


def test_an_answer_to_a_moved_value_is_newer_than_a_slice_of_the_run(window: Window) -> None:
    window.answers.run()
    layers = window.answers.layers
    assert layers is not None
    layers.ensure_map("probability")
    newer = np.full((40, 48), 0.75, np.float32)
    window.live.retuned.emit(SimpleNamespace(z=0), np.ones((40, 48), np.uint8), newer, None)
    while window.turns:
        window.turns.pop(0)()
    assert np.array_equal(layers.maps["probability"].data[0], newer)


def test_a_run_quicker_than_the_window_has_all_its_layers_later(window: Window) -> None:
    window.answers.run()
    assert not window.live.state.busy
    assert window.answers.making
    made = [2]
    while window.turns:
        window.turns.pop(0)()
        made.append(len(window.names))
    assert np.diff(made).max() == 1
    assert not window.answers.making
    assert window.names == ALL
    files = window.live.state.results
    assert files is not None
    step = window.answers.layers.maps["step"]
    assert np.array_equal(step.data, files.array("step"))
    assert step.contrast_limits[1] == pytest.approx(float(step.data.max()))


def test_turns_of_a_run_that_is_over_make_nothing(window: Window) -> None:
    window.live.slice_done.connect(lambda e: setattr(window.answers, "layers", None))
    window.answers.run()
    for turn in window.turns:
        turn()
    assert window.names == ["ct", "labels"]
