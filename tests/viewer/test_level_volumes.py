"""Maps of 3D models lie on the voxels that they are of, wherever the scan lies in the world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.questions import LevelMapFile
from napari_attnseg.viewer.level_maps import show_picture
from napari_attnseg.viewer.level_stacks import show_winner
from napari_attnseg.viewer.level_volumes import strongest
from napari_attnseg.viewer.results import ResultLayers

pytestmark = [
    pytest.mark.gui,
    pytest.mark.filterwarnings("ignore:Non-orthogonal slicing"),
]
SHAPE = (9, 14, 18)
PLACES: list[dict[str, Any]] = [
    {},
    {"scale": (3, 0.5, 0.7), "translate": (10, 2, 3), "units": ("mm",) * 3},
    {"scale": (-2, -1, 1)},
    {"scale": (2, 1, 1), "rotate": (10, 5, 3), "shear": (0.1, 0.0, 0.2)},
]
RNG = np.random.default_rng(4)


def file(**more: Any) -> LevelMapFile:
    about = {"place": "deep", "name": "row", "title": "bottleneck", "kind": "row"}
    return LevelMapFile(**{**about, **more})  # type: ignore[arg-type]


def over(viewer: ViewerModel, **place: Any) -> ResultLayers:
    image = viewer.add_image(RNG.random(SHAPE).astype(np.float32), name="scan", **place)
    return ResultLayers(viewer, image, "net")


@pytest.mark.parametrize("place", PLACES)
def test_a_marked_voxel_lies_on_itself(place: dict[str, Any]) -> None:
    """Cells of 2 x 2 x 3 voxels that begin at voxel (2, 4, 6)."""
    viewer = ViewerModel()
    results = over(viewer, **place)
    before = viewer.dims.range[0]
    values = np.zeros((3, 4, 3), np.float32)
    values[1, 2, 0] = 1
    found = file(scale=(2.0, 3.0), offset=(4.5, 7.0), depth=(2.0, 2.5))
    layer = show_picture(results, "deep row", found, 4, values)
    assert layer.data.shape == (3, 4, 3)
    source = results.source
    for voxel in ((4, 8, 6), (5, 9, 8), (4, 9, 7)):
        cell = layer.world_to_data(source.data_to_world(voxel))
        assert tuple(np.round(cell).astype(int)) == (1, 2, 0)
        assert layer.data[tuple(np.round(cell).astype(int))] == 1
    for voxel in ((3, 8, 6), (4, 7, 6), (4, 8, 5), (6, 8, 6), (5, 10, 8), (5, 9, 9)):
        cell = tuple(np.round(layer.world_to_data(source.data_to_world(voxel))).astype(int))
        assert cell != (1, 2, 0)
    middle = layer.data_to_world((1, 2, 0))
    np.testing.assert_allclose(middle, source.data_to_world((4.5, 8.5, 7.0)), atol=1e-9)
    if "rotate" not in place:  # the slider keeps its slices
        np.testing.assert_allclose(viewer.dims.range[0], before)


def test_a_window_that_moves_moves_its_layer() -> None:
    viewer = ViewerModel()
    results = over(viewer, scale=(3, 1, 1))
    values = RNG.random((2, 3, 4)).astype(np.float32)
    first = show_picture(
        results, "row", file(scale=(2.0, 2.0), offset=(0.5, 0.5), depth=(2.0, 1.5)), 2, values
    )
    moved = file(scale=(2.0, 2.0), offset=(6.5, 0.5), depth=(2.0, 3.5))
    again = show_picture(results, "row", moved, 4, values + 1)
    assert again is first
    np.testing.assert_allclose(
        again.data_to_world((0, 0, 0)), results.source.data_to_world((3.5, 6.5, 0.5))
    )
    np.testing.assert_array_equal(again.data, values + 1)
    bigger = show_picture(results, "row", moved, 4, RNG.random((3, 5, 4)))
    assert bigger is first
    assert bigger.data.shape == (3, 5, 4)
    assert [layer.name for layer in viewer.layers] == ["scan", "scan_net_row"]


@pytest.mark.parametrize(
    ("depth", "count", "cells"),
    [
        ((2.0, -0.5), 3, {0: 0, 1: 1, 2: 1, 3: 2, 4: 2}),  # the first cell reaches out of the scan
        ((0.5, 1.75), 4, {2: 1, 3: 3}),  # finer than the slices
        ((4.0, 5.5), 2, {4: 0, 5: 0, 7: 0, 8: 1}),  # the last one is centred behind it
    ],
)
def test_the_slider_keeps_its_slices(
    depth: tuple[float, float], count: int, cells: dict[int, int]
) -> None:
    viewer = ViewerModel()
    results = over(viewer, scale=(3, 1, 1))
    before = viewer.dims.range
    values = np.arange(count, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    layer = show_picture(
        results, "row", file(scale=(2.0, 2.0), offset=(4.5, 4.5), depth=depth), 4, values
    )
    assert viewer.dims.range[0] == before[0]
    for z, cell in cells.items():
        at = layer.world_to_data(results.source.data_to_world((z, 4.5, 4.5)))
        assert layer.data[tuple(np.round(at).astype(int))] == cell
    outside = layer.world_to_data(results.source.data_to_world((min(cells) - 1, 4.5, 4.5)))
    assert round(outside[0]) < 0


def test_the_strongest_slice_is_told() -> None:
    values = np.zeros((3, 2, 2), np.float32)
    values[2, 1, 0] = 1
    assert strongest(file(depth=(4.0, 3.5)), values, 20) == 12  # cells of slices 2-5, 6-9, 10-13
    assert strongest(file(depth=(4.0, 3.5)), values, 9) == 8
    assert strongest(file(), values, 9) is None
    assert strongest(file(depth=(4.0, 3.5)), np.zeros((5, 3, 2, 2)), 9) is None


def test_which_wins_is_a_volume_of_ids() -> None:
    viewer = ViewerModel()
    results = over(viewer)
    found = file(kind="branch", labels=("near", "far"), depth=(1.0, 2.0), offset=(3.0, 4.0))
    values = RNG.random((2, 3, 4, 5)).astype(np.float32)
    layer = show_winner(results, "deep winner", found, 3, values)
    np.testing.assert_array_equal(layer.data, np.where(values[1] > values[0], 2, 1))
    assert list(layer.features["class"]) == ["", "near", "far"]
    assert not layer.editable


def test_over_a_flat_image_a_volume_is_its_slice() -> None:
    from napari_attnseg.viewer.level_volumes import on_image

    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((8, 6), np.float32), name="flat")
    results = ResultLayers(viewer, image, "net")
    found = file(scale=(2.0, 2.0), offset=(0.5, 0.5), depth=(2.0, 0.5))
    values = RNG.random((1, 4, 3)).astype(np.float32)
    layer = show_picture(results, "row", found, 0, on_image(results, found, values))
    np.testing.assert_array_equal(layer.data, values[0])
