"""Painting, undo and redo are told; scrolling and redrawing are not."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.viewer.edit_watch import EditWatch


@pytest.fixture
def heard() -> list[int]:
    return []


def test_undo_and_redo_are_edits_and_scrolling_is_none(heard: list[int]) -> None:
    viewer, watch = ViewerModel(), EditWatch()
    layer = viewer.add_labels(np.zeros((3, 9, 11), np.uint8))
    watch.follow(layer)
    watch.edited.connect(lambda: heard.append(int(layer.data.sum())))
    layer.paint((1, 4, 5), 2)
    painted = int(layer.data.sum())
    assert heard
    assert heard[-1] == painted > 0
    heard.clear()
    for z in (0, 2, 1):
        viewer.dims.set_point(0, z)
    layer.refresh()
    layer.visible = False
    layer.visible = True
    del heard[:-1]  # the end of a stroke may be told with the next drawing
    heard.clear()
    viewer.dims.set_point(0, 0)
    layer.refresh()
    assert heard == []
    layer.undo()
    assert heard == [0]
    layer.redo()
    assert heard == [0, painted]
    layer.data = np.ones((3, 9, 11), np.uint8)
    assert heard[-1] == 3 * 9 * 11


def test_an_image_is_followed_until_another_is(heard: list[int]) -> None:
    viewer, watch = ViewerModel(), EditWatch()
    image = viewer.add_image(np.zeros((9, 11)))
    other = viewer.add_labels(np.zeros((9, 11), np.uint8))
    watch.edited.connect(lambda: heard.append(1))
    watch.follow(image)
    image.data = np.ones((9, 11))
    assert heard
    watch.follow(other)
    heard.clear()
    image.data = np.zeros((9, 11))
    assert heard == []
    watch.follow(None)
    other.paint((4, 5), 1)
    assert heard == []
