"""What is looked at: the slice, the axis, and that the rest of a run follows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.messages import Reorder
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.looking import seen

pytestmark = pytest.mark.gui


@pytest.mark.parametrize(
    ("order", "axis"),
    [
        ((0, 1, 2), 0),
        ((0, 2, 1), 0),
        ((1, 0, 2), 1),
        ((1, 2, 0), 1),
        ((2, 0, 1), 2),
        ((2, 1, 0), 2),
    ],
)
def test_the_axis_of_the_slider(order: tuple[int, ...], axis: int) -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((7, 11, 13), np.uint8), scale=(-2, 3, 1))
    viewer.dims.set_point(0, -8)
    viewer.dims.order = order
    assert seen(viewer, layer) == (4, axis)


def test_time_in_front_and_three_dimensions() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((7, 11, 13), np.uint8))
    viewer.add_image(np.zeros((2, 7, 11, 13), np.uint8))
    viewer.dims.set_point(1, 5)
    assert seen(viewer, layer) == (5, 0)
    viewer.dims.order = (0, 2, 1, 3)
    assert seen(viewer, layer) == (5, 1)
    viewer.dims.ndisplay = 3
    assert seen(viewer, layer)[1] != 0, "all slices are on screen"


def test_flat_images_have_one_slice() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((11, 13), np.uint8))
    assert seen(viewer, layer) == (0, 0)
    viewer.add_image(np.zeros((7, 11, 13), np.uint8))
    viewer.dims.order = (1, 0, 2)
    assert seen(viewer, layer) == (0, 0)


@pytest.fixture
def hub(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Hub]:
    viewer = ViewerModel()  # a hub does not keep it alive
    made = Hub(viewer)
    made.set_model(str(tiny_checkpoint))
    yield made
    made.close()


def test_what_is_left_of_a_run_follows_the_eyes(hub: Hub) -> None:
    viewer = hub.viewer
    viewer.add_image(np.zeros((9, 40, 48), np.uint8), name="ct", contrast_limits=(0, 1))
    sent: list[Any] = []
    hub.client.send = sent.append  # type: ignore[method-assign]
    hub.run()
    run = sent[-1]
    viewer.dims.set_point(0, 6)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_point(1, 20)
    viewer.dims.order = (0, 1, 2)
    told = [(r.target, r.z, r.axis) for r in sent if isinstance(r, Reorder)]
    assert told == [(run.id, 6, 0), (run.id, 6, 1), (run.id, 6, 0)]
