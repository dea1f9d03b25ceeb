"""Reliefs and scatters stand where the image stands."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_attnseg.viewer import attention3d as a3
from napari_attnseg.viewer import relief
from napari_attnseg.viewer.stage3d import Stage3D

H, W, CELL = 5, 7, (4.0, 4.0)
RNG = np.random.default_rng(3)


def make_map(**kw):
    return relief.AttentionMap(RNG.random((H, W)), CELL, "map", **kw)


@pytest.fixture
def ct():
    """A CT-like layer: flipped rows and columns, thick slices, placed off the origin."""
    return Image(
        np.zeros((3, 20, 28)), scale=(3, -2, -1.5), translate=(10, 40, 60), units=("mm",) * 3
    )


def test_relief_covers_the_image_exactly(ct):
    amap = make_map(z=2)
    vertices, faces, values = relief.surface_geometry(ct, amap, (0, 1))
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
    positions, values = relief.point_geometry(ct, amap, (0.0, 1.0))
    shorter = min(20 * 2.0, 28 * 1.5)
    assert np.allclose(positions[:, 0], 16.0 + values * relief.RELIEF * shorter)
    away, _ = relief.point_geometry(ct, amap, (0.0, 1.0), up=-1.0)
    assert np.allclose(away[:, 0], 32.0 - positions[:, 0])


def test_point_of_a_cell_lies_on_its_middle_pixels(ct):
    """Cell (1, 2) of 4 x 4 pixels covers rows 4..7, columns 8..11: its middle is (5.5, 9.5)."""
    positions, _ = relief.point_geometry(ct, make_map(), (0, 1))
    expected = ct.data_to_world((0, 5.5, 9.5))
    assert np.allclose(positions[1 * W + 2, 1:], expected[1:])


def test_two_dimensional_rotated_image():
    layer = Image(np.zeros((20, 28)), rotate=30, scale=(2, 2))
    positions, _ = relief.point_geometry(layer, make_map(), (0, 1))
    assert np.allclose(positions[3 * W + 1, 1:], layer.data_to_world((13.5, 5.5)))


def test_only_the_strongest_points_of_a_large_map(ct, monkeypatch):
    monkeypatch.setattr(relief, "MOST_POINTS", 6)
    amap = make_map()
    _, values = relief.point_geometry(ct, amap, (0, 1))
    assert sorted(values) == sorted(np.sort(amap.values.ravel())[-6:])


def test_common_limits_for_two_maps():
    low = relief.AttentionMap(np.zeros((2, 2)), CELL, "a")
    high = relief.AttentionMap(np.full((2, 2), 5.0), CELL, "b")
    assert relief.limits_of([low, high]) == (0.0, 5.0)
    flat = relief.limits_of([high])
    assert flat[0] == 5.0 < flat[1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_image_view_lies_on_its_slice_and_beside_it(ct, ndim):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct if ndim == 3 else Image(np.zeros((20, 28)), scale=(2, 2)))
    z = 2 if ndim == 3 else 0
    here = relief.AttentionMap(RNG.random((H, W)), CELL, "here", z=z)
    beside = relief.AttentionMap(RNG.random((H, W)), CELL, "beside", z=z, side=1)
    first, second = a3.show_maps(viewer, layer, [here, beside], "image")
    cell_middle = (0, 1, 2)[-ndim:]
    pixel = (z, 5.5, 9.5)[-ndim:]
    assert np.allclose(first.data_to_world(cell_middle), layer.data_to_world(pixel))
    moved = np.asarray(second.data_to_world(cell_middle)) - first.data_to_world(cell_middle)
    width = 28 * abs(layer.scale[-1])
    assert np.allclose(moved, [0] * (ndim - 1) + [width * (1 + relief.GAP)])


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
        relief.limits_of([amap])
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
    """Slice 2 stands at 16 mm; the layer's world coordinates begin there and go a relief up."""
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    viewer.dims.set_point(0, 16.0)
    (shown,) = a3.show_maps(viewer, layer, [make_map(z=2)], kind)
    assert viewer.dims.point[0] == 16.0
    assert viewer.dims.range[0].step == 3.0
    deepest = np.asarray(shown.extent.world)[0, 0]
    assert deepest == pytest.approx(16.0, abs=1.51)  # napari adds half a slice


def test_stage_puts_everything_back(ct):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    labels = viewer.add_labels(np.zeros((3, 20, 28), np.uint8))
    hidden = viewer.add_labels(np.zeros((3, 20, 28), np.uint8), visible=False)
    a3.show_maps(viewer, layer, [make_map(z=1)], "surface")
    stage = Stage3D(viewer)
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


@pytest.mark.parametrize("orientation", ["towards", "away"])
def test_hills_stand_towards_the_person_and_rise_on_the_screen(ct, orientation):
    """Whichever way the person's depth axis runs: nearer to the camera, and up."""
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    camera = a3.camera_of(viewer)
    camera.orientation = (orientation, "down", "right")
    amap = make_map(z=1)
    amap.values[2, 3] = 40.0
    (shown,) = a3.show_maps(viewer, layer, [amap], "points")
    stage = Stage3D(viewer)
    stage.enter(layer, 1)
    world = np.asarray(shown.data) * np.asarray(shown.scale)
    summit = world[2 * W + 3] - np.asarray(layer.data_to_world((1, 9.5, 13.5)))
    assert summit @ np.asarray(camera.view_direction) < 0, "nearer to the eye than the slice"
    assert summit @ np.asarray(camera.up_direction) > 0
    assert abs(summit @ np.cross(camera.view_direction, camera.up_direction)) < 1e-6


def test_weak_cells_let_the_image_through_and_strong_ones_do_not():
    alpha = np.asarray(a3.relief_colormap().map(np.linspace(0, 1, 11)))[:, 3]
    assert alpha[0] < 0.2
    assert (alpha[5:] > 0.97).all()
    assert (np.diff(alpha) >= -1e-6).all()


def test_what_was_made_is_chosen_but_a_brush_is_not_taken_away(ct):
    viewer = ViewerModel()
    layer = viewer.add_layer(ct)
    labels = viewer.add_labels(np.zeros((3, 20, 28), np.uint8))
    (image,) = a3.show_maps(viewer, layer, [make_map()], "image")
    assert viewer.layers.selection.active is image
    viewer.layers.selection.active = labels
    labels.mode = "paint"
    a3.show_maps(viewer, layer, [make_map()], "image")
    assert viewer.layers.selection.active is labels
    stage = Stage3D(viewer)
    stage.remember_choice()
    (surface,) = a3.show_maps(viewer, layer, [make_map()], "surface")
    stage.enter(layer, 0)
    assert viewer.layers.selection.active is surface
    stage.leave()
    assert viewer.layers.selection.active is labels
