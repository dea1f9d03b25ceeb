"""Results of a large volume and a disk that has no room for them: a sentence, and nothing lost."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Failed
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.volumes import result_bytes
from napari_attnseg.errors import InputError
from napari_attnseg.viewer.answers import Answers
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui
SHAPE = (3, 3000, 2000)
VOXELS = 18_000_000


class Lane:
    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.viewer = ViewerModel()
        pixels = np.zeros(SHAPE, np.uint8)
        image = self.viewer.add_image(pixels, name="ct", contrast_limits=(0, 2))
        self.live = LiveController(InProcessClient(), Scratch(folder))
        self.told: list[Any] = []
        for signal in (self.live.failed, self.live.finished):
            signal.connect(self.told.append)
        self.answers = Answers(self.live, lambda layers: None)
        self.live.open_image(pixels)
        self.live.set_model(str(checkpoint))
        self.live.set_tile(512)
        self.answers.layers = ResultLayers(self.viewer, image, "tiny", scratch=self.live.scratch)


@pytest.fixture
def lane(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Lane]:
    made = Lane(tmp_path, tiny_checkpoint)
    yield made
    made.live.client.close()
    made.live.scratch.close()


def test_run_is_refused_before_it_begins(lane: Lane) -> None:
    scratch = lane.live.scratch
    scratch.cap_bytes = scratch.used_bytes + result_bytes(SHAPE) + VOXELS
    with pytest.raises(InputError, match="scratch space"):
        lane.answers.run()
    assert not lane.live.state.busy
    assert [layer.name for layer in lane.viewer.layers] == ["ct"]


def test_a_disk_that_fills_up_meanwhile_ends_the_run(lane: Lane) -> None:
    def fill(event: Any) -> None:
        lane.live.scratch.cap_bytes = lane.live.scratch.used_bytes

    assert lane.answers.layers is not None
    ensure = lane.answers.layers.ensure_labels

    def late() -> Any:
        fill(None)
        return ensure()

    lane.answers.layers.ensure_labels = late  # type: ignore[method-assign]
    lane.answers.run()
    words = [event.message for event in lane.told if isinstance(event, Failed)]
    assert len(words) == 1
    assert "scratch space" in words[0]
    assert not lane.live.state.busy


def test_a_run_that_cannot_begin_keeps_no_disk(lane: Lane, tmp_path: Path) -> None:
    """The labels of a large volume are made ready when Run is pressed."""
    lane.live.set_model(str(tmp_path / "gone.safetensors"))
    used = lane.live.scratch.used_bytes
    lane.answers.run()
    assert [type(event) for event in lane.told] == [Failed]
    assert [layer.name for layer in lane.viewer.layers] == ["ct"]
    gc.collect()
    assert lane.live.scratch.used_bytes - used < VOXELS


def test_labels_lie_on_disk_before_the_engine_is_asked(lane: Lane) -> None:
    seen: list[int] = []
    used = lane.live.scratch.used_bytes
    lane.live.busy_changed.connect(lambda on: seen.append(lane.live.scratch.used_bytes - used))
    lane.answers.run()
    assert seen[0] >= 2 * VOXELS
    assert not any(isinstance(event, Failed) for event in lane.told)
