"""Layers of other readers: their space is found or taken as said, and never guessed in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._source import layer_source as opened_from
from nibabel.affines import apply_affine

from napari_attnseg.io.image import read_image
from napari_attnseg.io.measure_space import space_of
from napari_attnseg.viewer.layers import layer_source, layer_volume, transform_of
from napari_attnseg.viewer.reader import read_layers
from napari_attnseg.viewer.space import OWN, space_words
from napari_attnseg.viewer.writer import export_layer, write_labels
from nifti_spaces import ALL_48, Space, affine_of, turned, write

pytestmark = pytest.mark.gui
CUBE = (7, 7, 7)


def scan(folder: Path, affine: np.ndarray, shape: tuple[int, ...] = CUBE) -> Path:
    path = folder / "scan.nii"
    write(path, Space(affine, 2, 0, affine, shape=shape))
    return path


def layer_of(path: Path, pixels: Any, **look: Any) -> Image:
    with opened_from(path=str(path)):
        return Image(pixels, **look)


def exported(folder: Path, image: Image) -> tuple[nib.Nifti1Image, str]:
    """A mask of all voxels brighter than 100, drawn over the layer and exported."""
    viewer = ViewerModel()
    viewer.add_layer(image)
    ids = (np.asarray(image.data) > 100).astype(np.uint8)
    note = {"attnseg": {"result_of": image.name}}
    labels = viewer.add_layer(Labels(ids, metadata=note, **transform_of(image)))
    done = export_layer(folder / "mask.nii", labels, viewer)
    return nib.load(done.path), done.message


@pytest.mark.parametrize(("order", "signs"), ALL_48[::5])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_cube_in_another_order_is_not_taken_for_ours(tmp_path, order, signs, axes) -> None:
    """All sides equal: only the voxels themselves tell how the other reader stood them."""
    path = scan(tmp_path, affine_of(order, signs, degrees=(9, 4, -6)))
    theirs = nib.load(path)
    pixels = np.asarray(theirs.dataobj)
    mask, message = exported(tmp_path, layer_of(path, pixels.transpose(axes)))
    assert np.array_equal(mask.affine, theirs.affine)
    assert np.array_equal(np.asarray(mask.dataobj), pixels > 100)
    assert "the space of scan.nii, whose voxels are those of the layer" in message


@pytest.mark.parametrize(("order", "signs"), ALL_48[::7])
@pytest.mark.parametrize("turned_axes", [(0,), (1, 2), (0, 1, 2)])
def test_a_layer_that_was_turned_round_comes_back(tmp_path, order, signs, turned_axes) -> None:
    """Readers that turn a scan to one standing reverse axes: its mask lies where the scan lies, in
    the scan's own order and header, and is measured there."""
    path = scan(tmp_path, affine_of(order, signs, degrees=(9, 4, -6)), (5, 7, 9))
    theirs = nib.load(path)
    pixels = np.asarray(theirs.dataobj)
    seen = np.flip(pixels.transpose(2, 0, 1), turned_axes)
    image = layer_of(path, seen, scale=(-1, -2, -3), translate=(5, 6, 7))
    mask, message = exported(tmp_path, image)
    assert np.array_equal(mask.affine, theirs.affine)
    assert np.array_equal(np.asarray(mask.dataobj), pixels > 100)
    assert "the space of scan.nii, whose voxels are those of the layer" in message
    space = space_of(layer_volume(image))
    for ijk in ((0, 0, 0), (4, 2, 7), (1, 6, 3)):
        zyx = np.argwhere(seen == pixels[ijk])
        np.testing.assert_allclose(space.world(zyx)[0], apply_affine(theirs.affine, ijk))


def test_a_standing_of_its_own_world_is_not_believed(tmp_path) -> None:
    """As napari-nifti opens a scan: superior first, and a scale that runs against it."""
    path = scan(tmp_path, affine_of((2, 0, 1), (1, -1, 1)), (5, 7, 9))
    theirs = nib.load(path)
    pixels = np.asarray(nib.as_closest_canonical(theirs).dataobj).transpose(2, 1, 0)
    mask, _ = exported(tmp_path, layer_of(path, pixels, scale=(-3, -2, -1), translate=(9, 9, 9)))
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(theirs.dataobj) > 100)
    assert np.array_equal(mask.affine, theirs.affine)


def test_a_file_that_became_another_one_is_not_the_space(tmp_path) -> None:
    path = scan(tmp_path, affine_of((0, 1, 2), (1, 1, 1)))
    pixels = np.asarray(nib.load(path).dataobj)
    image = layer_of(path, pixels + np.arange(7), scale=(3, 2, 2))
    _, message = exported(tmp_path, image)
    assert OWN in message


@pytest.mark.parametrize("way", ["affine", "parts"])
def test_a_whole_transform_is_kept_turned_and_sheared(tmp_path, way) -> None:
    """As a NIfTI plugin leaves it: an affine and metadata, no file of ours."""
    linear = turned((5, -8, 12)) @ np.diag((3.0, -2.0, 1.5))
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = linear, (10, -4, 6)
    look: dict[str, Any] = {"affine": whole, "metadata": {"spacing": (3, 2, 1.5), "header": {}}}
    if way == "parts":
        look = {
            "scale": (3, -2, 1.5),
            "rotate": turned((5, -8, 12)),
            "translate": (10, -4, 6),
            "shear": (0.1, 0, 0.2),
        }
    pixels = np.random.default_rng(0).integers(0, 200, (4, 6, 8))
    image = Image(pixels, **look)
    mask, message = exported(tmp_path, image)
    assert OWN in message
    assert space_words(image) == OWN
    for zyx in ((0, 0, 0), (3, 2, 5), (1, 5, 7)):
        s, p, l_ = image.data_to_world(zyx)
        np.testing.assert_allclose(apply_affine(mask.affine, zyx[::-1]), (-l_, -p, s), atol=1e-4)
    assert np.array_equal(np.asarray(mask.dataobj).transpose(2, 1, 0), pixels > 100)
    if way == "affine":
        source = layer_source(image)
        np.testing.assert_allclose(source.spacing, (3, 2, 1.5))
        assert source.flips == (False, True, False)


def test_micrometres_become_millimetres(tmp_path) -> None:
    image = Image(np.arange(60).reshape(3, 4, 5), scale=(500, 250, 250), units=("um",) * 3)
    mask, _ = exported(tmp_path, image)
    np.testing.assert_allclose(mask.header.get_zooms(), (0.25, 0.25, 0.5))
    assert layer_source(image).spacing == (0.5, 0.25, 0.25)


def test_a_tiff_with_a_scale_keeps_its_pixel_size(tmp_path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.arange(77, dtype=np.uint8).reshape(7, 11))
    image = layer_of(path, tifffile.imread(path), scale=(0.5, 0.25), units=("um", "um"))
    assert layer_source(image).spacing == (1.0, 0.0005, 0.00025)
    assert space_words(image) == OWN
    assert space_words(layer_of(path, tifffile.imread(path))) == ""
    write_labels(str(tmp_path / "m.tif"), np.asarray(image.data), image.as_layer_data_tuple()[1])
    np.testing.assert_allclose(read_image(tmp_path / "m.tif").spacing_mm[1:], (0.0005, 0.00025))


def test_a_plain_array_says_that_nothing_is_known(tmp_path) -> None:
    image = Image(np.arange(60).reshape(3, 4, 5))
    assert layer_volume(image) is None
    assert space_words(image) == "no voxel size is known: measures are in pixels"
    mask, message = exported(tmp_path, image)
    assert "space assumed: as on the screen, voxels of 1 mm" in message
    assert mask.shape == (5, 4, 3)


def test_napari_s_own_save_finds_the_image_of_another_reader(make_napari_viewer, tmp_path) -> None:
    path = scan(tmp_path, affine_of((1, 2, 0), (1, -1, 1), degrees=(9, 4, -6)))
    theirs = nib.load(path)
    viewer = make_napari_viewer()
    image = viewer.add_layer(layer_of(path, np.asarray(theirs.dataobj)))
    ids = (np.asarray(image.data) > 100).astype(np.uint8)
    meta = {"metadata": {"attnseg": {"result_of": image.name}}, "scale": (1, 1, 1)}
    write_labels(str(tmp_path / "m.nii.gz"), ids, meta)
    mask = nib.load(tmp_path / "m.nii.gz")
    assert np.array_equal(mask.affine, theirs.affine)
    assert np.array_equal(np.asarray(mask.dataobj), ids)


@pytest.mark.parametrize(("order", "signs"), ALL_48[::7])
def test_an_overlay_is_picked_on_the_voxel_of_the_scan(tmp_path, order, signs) -> None:
    """Through napari's own world: image and labels answer from the same voxel, oblique too."""
    path = scan(tmp_path, affine_of(order, signs, degrees=(11, 0, -7)), (5, 7, 9))
    ((data, settings, _),) = read_layers(str(path))
    viewer = ViewerModel()
    image = viewer.add_layer(Image(data, **settings))
    ids = (np.arange(data.size) % 251).reshape(data.shape).astype(np.uint8)
    labels = viewer.add_layer(Labels(ids, **transform_of(image)))
    for z in range(0, data.shape[0], 2):
        viewer.dims.set_point(0, image.data_to_world((z, 0, 0))[0])
        for zyx in [(z, 0, 0), (z, 2, 3), (z, *np.array(data.shape[1:]) - 1)]:
            world = image.data_to_world(zyx)
            assert image.get_value(world, world=True) == data[zyx]
            assert labels.get_value(world, world=True) == ids[zyx]


def test_the_dock_says_what_is_assumed_or_doubtful(make_napari_viewer, tmp_path) -> None:
    from napari_attnseg.widgets.segment import SegmentWidget

    viewer = make_napari_viewer()
    dock = SegmentWidget(viewer)
    viewer.window.add_dock_widget(dock)
    far, near = affine_of((0, 1, 2), (1, 1, 1)), affine_of((0, 1, 2), (-1, 1, 1))
    for sform, qform, said in ((1, 0, ""), (0, 0, "neither an sform nor"), (1, 1, "mm apart")):
        path = tmp_path / f"scan{sform}{qform}.nii"
        write(path, Space(far, sform, qform, near if qform else far))
        dock.choose.open_path(str(path))
        assert dock.choose.image.layer.name == path.stem
        assert said in dock.choose.space.text()
        assert dock.choose.space.isHidden() is not bool(said)
    dock.hub.set_source(viewer.add_image(np.zeros((5, 7, 9)), name="plain"))
    assert "no voxel size is known" in dock.choose.space.text()
