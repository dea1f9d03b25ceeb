"""Reliefs and scatters stand where the image stands."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_attnseg.viewer import attention3d as a3

H, W, CELL = 5, 7, (4.0, 4.0)
RNG = np.random.default_rng(3)


def make_map(**kw):
    return a3.AttentionMap(RNG.random((H, W)), CELL, "map", **kw)


@pytest.fixture
def ct():
    """A CT-like layer: flipped rows and columns, thick slices, placed off the origin."""
    return Image(
        np.zeros((3, 20, 28)), scale=(3, -2, -1.5), translate=(10, 40, 60), units=("mm",) * 3
    )


def test_relief_covers_the_image_exactly(ct):
    amap = make_map(z=2)
    vertices, faces, values = a3.surface_geometry(ct, amap, (0, 1))
    assert vertices.shape == ((H + 2) * (W + 2), 3)
    assert faces.shape == (2 * (H + 1) * (W + 1), 3)
    assert values.size == len(vertices)
    assert faces.max() == len(vertices) - 1
    corner, far = ct.data_to_world((2, -0.5, -0.5)), ct.data_to_world((2, 19.5, 27.5))
    low, high = np.minimum(corner, far), np.maximum(corner, far)
    assert np.allclose(vertices[:, 1:].min(0), low[1:])
    assert np.allclose(vertices[:, 1:].max(0), high[1:])


def test_height_is_the_value_towards_the_viewer(ct):
    """Slice 2 lies at 16 mm; the strongest cell stands a quarter of the shorter side above it."""
    amap = make_map(z=2)
    positions, values = a3.point_geometry(ct, amap, (0.0, 1.0))
    shorter = min(20 * 2.0, 28 * 1.5)
    assert np.allclose(positions[:, 0], 16.0 - values * a3.RELIEF * shorter)


def test_point_of_a_cell_lies_on_its_middle_pixels(ct):
    """Cell (1, 2) of 4 x 4 pixels covers rows 4..7, columns 8..11: its middle is (5.5, 9.5)."""
    positions, _ = a3.point_geometry(ct, make_map(), (0, 1))
    expected = ct.data_to_world((0, 5.5, 9.5))
    assert np.allclose(positions[1 * W + 2, 1:], expected[1:])


def test_two_dimensional_rotated_image():
    layer = Image(np.zeros((20, 28)), rotate=30, scale=(2, 2))
    positions, _ = a3.point_geometry(layer, make_map(), (0, 1))
    assert np.allclose(positions[3 * W + 1, 1:], layer.data_to_world((13.5, 5.5)))


def test_only_the_strongest_points_of_a_large_map(ct, monkeypatch):
    monkeypatch.setattr(a3, "MOST_POINTS", 6)
    amap = make_map()
    _, values = a3.point_geometry(ct, amap, (0, 1))
    assert sorted(values) == sorted(np.sort(amap.values.ravel())[-6:])


def test_common_limits_for_two_maps():
    low = a3.AttentionMap(np.zeros((2, 2)), CELL, "a")
    high = a3.AttentionMap(np.full((2, 2), 5.0), CELL, "b")
    assert a3.limits_of([low, high]) == (0.0, 5.0)
    flat = a3.limits_of([high])
    assert flat[0] == 5.0 < flat[1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_image_view_lies_on_its_slice_and_beside_it(ct, ndim):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct if ndim == 3 else Image(np.zeros((20, 28)), scale=(2, 2)))
    z = 2 if ndim == 3 else 0
    here = a3.AttentionMap(RNG.random((H, W)), CELL, "here", z=z)
    beside = a3.AttentionMap(RNG.random((H, W)), CELL, "beside", z=z, side=1)
    first, second = a3.show_maps(viewer, layer, [here, beside], "image")
    cell_middle = (0, 1, 2)[-ndim:]
    pixel = (z, 5.5, 9.5)[-ndim:]
    assert np.allclose(first.data_to_world(cell_middle), layer.data_to_world(pixel))
    moved = np.asarray(second.data_to_world(cell_middle)) - first.data_to_world(cell_middle)
    width = 28 * abs(layer.scale[-1])
    assert np.allclose(moved, [0] * (ndim - 1) + [width * (1 + a3.GAP)])


@pytest.mark.parametrize("kind", ["image", "surface", "points"])
def test_shown_twice_is_one_layer(ct, kind):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    a3.show_maps(viewer, layer, [make_map()], kind)
    amap = make_map()
    (shown,) = a3.show_maps(viewer, layer, [amap], kind)
    assert len(viewer.layers) == 2
    assert tuple(shown.units) == tuple(layer.units)
    assert tuple(shown.contrast_limits if kind != "points" else shown.face_contrast_limits) == (
        a3.limits_of([amap])
    )
    assert a3.remove_views(viewer) == 1
    assert list(viewer.layers) == [layer]


def test_a_foreign_layer_of_the_same_name_is_left_alone(ct):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    foreign = viewer.add_image(np.ones((3, 20, 28)), name="map")
    (shown,) = a3.show_maps(viewer, layer, [make_map()], "image")
    assert shown is not foreign
    assert foreign.data.shape == (3, 20, 28)
    assert a3.remove_views(viewer) == 1
    assert foreign in viewer.layers


@pytest.mark.parametrize("kind", ["surface", "points"])
def test_relief_lies_on_its_slice_and_leaves_the_slider_alone(ct, kind):
    """Slice 2 stands at 16 mm; the layer's lowest world coordinate lies a relief before it."""
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    viewer.dims.set_point(0, 16.0)
    (shown,) = a3.show_maps(viewer, layer, [make_map(z=2)], kind)
    assert viewer.dims.point[0] == 16.0
    assert viewer.dims.range[0].step == 3.0
    deepest = np.asarray(shown.extent.world)[1, 0]
    assert deepest == pytest.approx(16.0, abs=1.51)  # napari adds half a slice


def test_stage_puts_everything_back(ct):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    labels = viewer.add_labels(np.zeros((3, 20, 28), np.uint8))
    hidden = viewer.add_labels(np.zeros((3, 20, 28), np.uint8), visible=False)
    a3.show_maps(viewer, layer, [make_map(z=1)], "surface")
    stage = a3.Stage3D(viewer)
    stage.enter(layer, 1)
    stage.enter(layer, 2)
    assert viewer.dims.ndisplay == 3
    assert layer.depiction == "plane"
    assert layer.plane.position[0] == 2
    assert not labels.visible
    stage.leave()
    assert viewer.dims.ndisplay == 2
    assert a3.attention_views(viewer) == []
    assert layer.depiction == "volume"
    assert labels.visible
    assert not hidden.visible
    assert not stage.entered
