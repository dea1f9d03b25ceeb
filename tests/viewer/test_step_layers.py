"""Steps lie where the image lies, along one more axis; the image stays in sight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.viewer.refined import ATTENTION, CHANGE, MASK, PROBABILITY, RefinedLayers
from napari_attnseg.viewer.shown_steps import ShownSteps
from napari_attnseg.viewer.step_layers import StepLayers, step_transform

pytestmark = [
    pytest.mark.gui,
    pytest.mark.filterwarnings("ignore:Non-orthogonal slicing"),
]
RNG = np.random.default_rng(11)
FLAT, VOLUME = (11, 13), (7, 11, 13)
PLACES: list[dict[str, Any]] = [
    {},
    {"scale": (0.5, 0.7), "translate": (3, -2), "rotate": 30},
    {"affine": np.array([[1.1, 0.2, 5], [0, 0.9, 2], [0, 0, 1]]), "shear": (0.3,)},
]
VOLUME_PLACES: list[dict[str, Any]] = [
    {},
    {"scale": (3, 0.5, 0.7), "translate": (10, 2, 3), "units": ("mm",) * 3},
    {"scale": (2, 1, 1), "rotate": (10, 5, 3), "shear": (0.1, 0.0, 0.2)},
]


def masks(steps: int, shape: tuple[int, ...] = FLAT) -> np.ndarray:
    return (RNG.random((steps, *shape[-2:])) > 0.5).astype(np.uint8)


def started(viewer: ViewerModel, shape: tuple[int, ...], **place: Any) -> RefinedLayers:
    image = viewer.add_image(RNG.random(shape).astype(np.float32), name="cells", **place)
    results = RefinedLayers(viewer, image, "cspn")
    for z in range(results.shape[0]):
        results.take(z, masks(1)[0], np.ones(FLAT, np.float32))
    return results


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("place", PLACES + VOLUME_PLACES)
def test_a_step_pixel_lies_on_its_image_pixel(place: dict[str, Any], first: int) -> None:
    viewer = ViewerModel()
    shape = FLAT if place in PLACES and place else VOLUME
    image = viewer.add_image(np.zeros(shape), **place)
    z = 0 if len(shape) == 2 else 4
    inside = () if len(shape) == 2 else (0,)
    data = np.zeros((6, *([1] if inside else []), *FLAT))
    layer = viewer.add_image(data, **step_transform(image, z, first))
    for y, x in ((0, 0), (3, 12), (10, 5)):
        here = image.data_to_world((z, y, x)[-image.ndim :])
        t, *there = layer.data_to_world((2, *inside, y, x))
        assert t == pytest.approx(2 + first)
        np.testing.assert_allclose(there, here, atol=1e-9)
    assert layer.units[1:] == image.units


def test_the_image_stays_in_sight_while_steps_go_by() -> None:
    viewer = ViewerModel()
    results = started(viewer, FLAT)
    steps, data = StepLayers(results), masks(7)
    layer = steps.take(MASK, 0, data)
    assert viewer.dims.axis_labels[0] == "step"
    assert (viewer.dims.ndim, viewer.dims.displayed) == (3, (1, 2))
    assert steps.step == 6, "the last step is what one saw before"
    for t in (0, 3, 6):
        steps.go(t)
        assert steps.step == t
        for y, x in ((2, 5), (9, 1)):
            world = (float(t), float(y), float(x))
            assert results.source.get_value(world, world=True) == results.source.data[y, x]
            assert layer.get_value(world, world=True) == data[t, y, x]


def test_steps_of_a_volume_lie_on_their_slice_only() -> None:
    viewer = ViewerModel()
    results = started(viewer, VOLUME, scale=(3, 0.5, 0.7), axis_labels=("z", "y", "x"))
    steps, data = StepLayers(results), masks(4)
    viewer.dims.set_point(0, 6.0)  # slice 2
    layer = steps.take(MASK, 2, data)
    assert viewer.dims.axis_labels == ("step", "z", "y", "x")
    assert results.visible_z() == 2, "another axis in front moves nobody to another slice"
    steps.go(1)
    assert results.visible_z() == 2
    seen = layer.get_value((1.0, 6.0, 2.0, 2.8), world=True)
    assert seen == data[1, 4, 4]
    viewer.dims.set_point(1, 9.0)
    assert layer.get_value((1.0, 9.0, 2.0, 2.8), world=True) is None
    assert results.visible_z() == 3
    steps.take(MASK, 3, data[::-1])
    assert layer.get_value((1.0, 9.0, 2.0, 2.8), world=True) == data[2, 4, 4]
    assert steps.step == 1, "who looks at a step goes on looking at it"


def test_more_and_fewer_steps() -> None:
    viewer = ViewerModel()
    steps = StepLayers(started(viewer, FLAT))
    for count, step in ((7, 6), (3, 2), (9, 8)):
        steps.take(MASK, 0, masks(count))
        assert (steps.count, steps.step) == (count - 1, step)
        assert viewer.dims.range[0].stop == count - 1


def test_the_final_mask_steps_back_and_returns() -> None:
    viewer = ViewerModel()
    results = started(viewer, FLAT)
    assert results.labels is not None
    assert results.labels.name == "cells_cspn_refined"
    shown = ShownSteps()
    shown.wanted = {MASK, CHANGE}
    files = {"labels": masks(4), "probability": RNG.random((4, *FLAT)), "change": masks(4) * 0.1}
    shown.take(results, 0, files)
    assert shown.layers is not None
    assert not results.labels.visible
    assert not shown.layers.layers[MASK].editable
    assert not shown.layers.layers[PROBABILITY].visible
    viewer.layers.remove(shown.layers.layers[CHANGE])
    assert shown.forget_deleted(shown.layers.layers[CHANGE])
    assert shown.wanted == {MASK}
    shown.unwant(MASK)
    assert results.labels.visible
    assert viewer.dims.ndim == 2
    assert [x.name for x in viewer.layers if "step" in x.name] == []


def test_attention_begins_with_the_first_step_and_has_fixed_colours() -> None:
    viewer = ViewerModel()
    shown = ShownSteps()
    shown.wanted = {ATTENTION[2]}
    attention = RNG.random((6, 4, *FLAT)).astype(np.float32) * 0.4
    shown.take(started(viewer, FLAT), 0, {"attention": attention})
    assert shown.layers is not None
    layer = shown.layers.layers[ATTENTION[2]]
    np.testing.assert_array_equal(layer.data, attention[:, 2])
    assert tuple(layer.contrast_limits) == (0.0, 1.0)
    for t in (1, 6):
        shown.layers.go(t)
        seen = layer.get_value((float(t), 4.0, 5.0), world=True)
        assert seen == attention[t - 1, 2, 4, 5]
    assert (viewer.dims.range[0].start, viewer.dims.range[0].stop) == (1, 6)


def test_change_has_the_same_signed_colours_for_all_steps() -> None:
    viewer = ViewerModel()
    steps = StepLayers(started(viewer, FLAT))
    change = np.zeros((3, *FLAT), np.float32)
    change[1, :5] = 0.4
    change[2, 5:7] = -0.1
    layer: Any = steps.take(CHANGE, 0, change)
    low, high = layer.contrast_limits
    assert low == -high
    assert 0.1 <= high <= 0.4001
    reds = layer.colormap.map(np.array([0.0, 0.5, 1.0]))
    assert reds[1, 3] == 0, "where nothing moves the image is seen"
    assert reds[0, 2] > reds[0, 0]
    assert reds[2, 0] > reds[2, 2]


def test_strokes_stay_on_top() -> None:
    from napari_attnseg.viewer.strokes import new_strokes

    viewer = ViewerModel()
    image = viewer.add_image(RNG.random(FLAT), name="cells")
    strokes = new_strokes(viewer, image, ("background", "nuclei"))
    results = RefinedLayers(viewer, image, "cspn")
    results.take(0, masks(1)[0], np.ones(FLAT, np.float32))
    StepLayers(results).take(MASK, 0, masks(3))
    assert viewer.layers[-1] is strokes
    assert viewer.layers.selection.active is strokes


def test_hand_edits_win_and_the_export_knows_the_space() -> None:
    viewer = ViewerModel()
    results = started(viewer, FLAT)
    assert results.labels is not None
    results.labels.data_setitem((np.array([2]), np.array([3])), 7)
    results.take(0, np.zeros(FLAT, np.uint8), None)
    assert results.labels.data[2, 3] == 7
    assert np.count_nonzero(results.labels.data) == 1
