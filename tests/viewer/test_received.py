"""The attention received of a large volume is made where somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.engine import volume_run
from napari_attnseg.engine.session import Session
from napari_attnseg.settings import Tuning
from napari_attnseg.viewer.answers import Answers
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui
TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)


class Window:
    def __init__(self, folder: Path, checkpoint: Path) -> None:
        viewer = ViewerModel()
        self.pixels = np.random.default_rng(0).normal(size=(5, 40, 48)).astype(np.float32)
        image = viewer.add_image(self.pixels, name="ct")
        self.live = LiveController(InProcessClient(), Scratch(folder))
        self.answers = Answers(self.live, lambda layers: None)
        self.answers.layers = ResultLayers(viewer, image, "tiny")
        self.live.open_image(self.pixels)
        self.live.set_model(str(checkpoint), "cpu", TUNING)
        self.session = Session(checkpoint, device="cpu")
        self.session.set_image(self.pixels)

    @property
    def layer(self) -> Any:
        assert self.answers.layers is not None
        return self.answers.layers.maps["received"]

    @property
    def filled(self) -> list[int]:
        return [z for z, plane in enumerate(np.asarray(self.layer.data)) if plane.any()]


@pytest.fixture
def window(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Window]:
    monkeypatch.setattr(volume_run, "MAPS_WITH_RUN", 3)
    made = Window(tmp_path, tiny_checkpoint)
    yield made
    made.live.client.close()
    made.live.scratch.close()


def test_it_is_asked_for_when_its_layer_is_shown_and_at_every_slice(window: Window) -> None:
    window.answers.run()
    assert window.filled == [0]  # what was looked at
    window.live.set_slice(2)
    assert window.filled == [0]
    window.layer.visible = True
    assert window.filled == [0, 2]
    window.live.set_slice(4)
    assert window.filled == [0, 2, 4]
    for z in (0, 2, 4):
        assert np.array_equal(window.layer.data[z], window.session.received(z, TUNING))


def test_what_was_asked_for_follows_a_released_value(window: Window) -> None:
    window.answers.run()
    window.layer.visible = True
    window.live.set_slice(3)
    before = window.layer.data[3].copy()
    step = window.session.predict(3, TUNING).step
    assert step is not None
    moved = TUNING.replace(threshold=float(np.median(step)))
    window.live.set_tuning(moved)
    assert np.array_equal(window.layer.data[3], before)  # a drag is not held up by it
    window.live.release()
    assert np.array_equal(window.layer.data[3], window.session.received(3, moved))
    assert not np.array_equal(window.layer.data[3], before)
    assert window.filled == [0, 3]


def test_a_run_under_another_rule_makes_them_in_passing(window: Window) -> None:
    window.live.set_tuning(TUNING.replace(rule="paper"))
    window.answers.run()
    assert window.filled == [0, 1, 2, 3, 4]
