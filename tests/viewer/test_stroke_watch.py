"""Strokes reach the engine's file pixel by pixel, whatever the hand does; coarse masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_attnseg.errors import InputError
from napari_attnseg.viewer.coarse_map import coarse_map, fits_coarse
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.stroke_watch import StrokeWatch
from napari_attnseg.viewer.strokes import new_strokes

pytestmark = pytest.mark.gui
RNG = np.random.default_rng(2)


@pytest.fixture(params=[(41, 37), (5, 41, 37)])
def watched(request: pytest.FixtureRequest) -> Iterator[tuple[StrokeWatch, Labels, list[Any]]]:
    viewer = ViewerModel()
    image = viewer.add_image(RNG.random(request.param).astype(np.float32), name="cells")
    hub = Hub(viewer)
    hub.prepare()
    layer = new_strokes(viewer, image, ("background", "nuclei"))
    watch = StrokeWatch(hub)
    watch.follow(layer)
    watch.hand_over()
    told: list[Any] = []
    watch.painted.connect(told.append)
    yield watch, layer, told
    hub.close()


def handed(watch: StrokeWatch) -> np.ndarray:
    """What the engine would read."""
    return np.load(watch.hub.refine.state.strokes)


def same(watch: StrokeWatch, layer: Labels) -> bool:
    return np.array_equal(handed(watch).reshape(layer.data.shape), layer.data)


def test_paint_undo_redo_and_clear_arrive(watched: tuple[StrokeWatch, Labels, list[Any]]) -> None:
    watch, layer, told = watched
    z = layer.data.ndim - 2
    if z:
        watch.hub.viewer.dims.set_point(0, 3)
    at = (3,) * z
    layer.brush_size = 5
    layer.paint((*at, 10, 12), 2)
    assert told == [(3 * z,)]
    assert same(watch, layer)
    assert watch.pixels == np.count_nonzero(layer.data) > 5
    layer.paint((*at, 10, 13), 1)
    assert same(watch, layer)
    assert len(told) == 2
    if z:
        watch.hub.viewer.dims.set_point(0, 1)
    layer.undo()
    layer.undo()
    assert same(watch, layer)
    assert watch.pixels == 0, "undo of a slice that is not seen counts too"
    layer.redo()
    assert same(watch, layer)
    assert watch.pixels > 0
    watch.clear()
    assert same(watch, layer)
    assert watch.pixels == 0
    layer.undo()
    assert watch.pixels > 0


def test_nothing_new_is_not_told(watched: tuple[StrokeWatch, Labels, list[Any]]) -> None:
    _, layer, told = watched
    layer.refresh()
    layer.events.paint(value=[])
    assert told == []


def test_other_pixels_of_the_layer_are_taken_whole(
    watched: tuple[StrokeWatch, Labels, list[Any]],
) -> None:
    watch, layer, _ = watched
    layer.data = RNG.integers(0, 3, layer.data.shape).astype(np.uint8)
    assert same(watch, layer)


def test_labels_that_are_no_class_count_as_free(
    watched: tuple[StrokeWatch, Labels, list[Any]],
) -> None:
    watch, layer, _ = watched
    odd: list[int] = []
    watch.odd.connect(odd.append)
    z = (0,) * (layer.data.ndim - 2)
    layer.paint((*z, 10, 12), 7)
    layer.paint((*z, 30, 12), 2)
    assert odd == [7]
    assert set(np.unique(handed(watch))) == {0, 2}


def test_strokes_of_another_size_are_refused(
    watched: tuple[StrokeWatch, Labels, list[Any]],
) -> None:
    watch, layer, _ = watched
    other = Labels(np.zeros((9, 9), np.uint8), name="other")
    with pytest.raises(InputError, match="other"):
        watch.follow(other)
    assert watch.layer is layer


# --- coarse masks ---------------------------------------------------------------------------------

IMAGE = Image(np.zeros((11, 13)), name="cells")


def test_labels_are_class_ids_or_one_class() -> None:
    ids = RNG.integers(0, 40, (11, 13))
    layer = Labels(ids, name="objects")
    array, kind = coarse_map(layer, IMAGE, 1)
    assert (kind, array.shape, array.dtype) == ("labels", (1, 11, 13), np.uint8)
    np.testing.assert_array_equal(array[0], ids > 0)
    with pytest.raises(InputError, match="labels up to"):
        coarse_map(layer, IMAGE, 3)
    array, _ = coarse_map(Labels(ids % 4), IMAGE, 3)
    np.testing.assert_array_equal(array[0], ids % 4)


def test_probabilities_stand_between_0_and_1() -> None:
    values = RNG.random((11, 13))
    array, kind = coarse_map(Image(values), IMAGE, 1)
    assert (kind, array.dtype) == ("probability", np.float32)
    np.testing.assert_allclose(array[0], values, rtol=1e-6)
    for wrong in (values * 255, values - 0.5, np.where(values > 0.5, np.nan, values)):
        with pytest.raises(InputError, match="expected a probability"):
            coarse_map(Image(wrong, contrast_limits=(0, 1)), IMAGE, 1)


def test_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"\(11, 14\).*\(11, 13\)"):
        coarse_map(Labels(np.zeros((11, 14), np.uint8)), IMAGE, 1)


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (Labels(np.zeros((11, 13), np.uint8)), True),
        (Image(np.zeros((11, 13), np.float32)), True),
        (Image(np.zeros((11, 13), np.uint8)), False),  # intensities
        (Image(np.zeros((11, 13, 3)), rgb=True), False),
        (Labels(np.zeros((11, 14), np.uint8)), False),
        (Labels(np.zeros((11, 13), np.uint8), metadata={METADATA: {"strokes": True}}), False),
        (Labels(np.zeros((11, 13), np.uint8), metadata={METADATA: {"what": "refined"}}), False),
        (Labels(np.zeros((11, 13), np.uint8), metadata={METADATA: {"what": "labels"}}), True),
        (IMAGE, False),
    ],
)
def test_what_is_offered_as_coarse_mask(layer: Any, fits: bool) -> None:
    assert fits_coarse(layer, IMAGE) == fits
    assert not fits_coarse(layer, None)
