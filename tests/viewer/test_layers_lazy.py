"""DICOM folders and OME-Zarr in napari: opened by our reader, predicted, exported, in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_series import positions, turned, values, write_series
from zarr_images import ranks, write

pytestmark = pytest.mark.gui


def test_a_dropped_dicom_folder_stands_in_its_place(make_napari_viewer, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    write_series(tmp_path / "scan", places=positions(step=(0, 0, 3)))
    (layer,) = viewer.open(tmp_path / "scan", plugin="napari-attnseg")
    assert layer.name == "scan"
    np.testing.assert_array_equal(layer.data, values().astype(int) - 1024)
    # LPS (-31.25 + 4 * 0.75, 17.5 + 2 * 1.5, 402 + 3 * 3) in the world (S, P, L)
    np.testing.assert_allclose(layer.data_to_world((3, 2, 4)), (411, 20.5, -28.25))
    assert tuple(layer.contrast_limits) == (-160.0, 240.0)


def test_a_tilted_folder_says_so_in_the_dock_words(make_napari_viewer, tmp_path: Path) -> None:
    from napari_attnseg.viewer.space import space_words

    viewer = make_napari_viewer()
    write_series(tmp_path / "s", places=positions(step=(0, 0, 3)), turn=turned("x", 15))
    (layer,) = viewer.open(tmp_path / "s", plugin="napari-attnseg")
    assert "gantry tilt of 15.0 degrees" in space_words(layer)


def test_a_zarr_folder_is_a_lazy_layer(make_napari_viewer, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    path = write(tmp_path / "a.ome.zarr", ranks(), shift=(10, -4, 2))
    (layer,) = viewer.open(path, plugin="napari-attnseg")
    assert layer.name == "a"
    assert not isinstance(layer.data, np.ndarray)
    assert not layer.multiscale
    np.testing.assert_array_equal(np.asarray(layer.data), ranks())
    np.testing.assert_allclose(layer.data_to_world((1, 2, 3)), (13, -3, 2.75))
    assert {str(u) for u in layer.units} == {"millimeter"}


def test_large_planes_are_multiscale(make_napari_viewer, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    data = np.zeros((2, 2304, 16), np.uint8)
    data[1, 2000:, 8:] = 200
    chunks = (1, 512, 16)
    path = write(tmp_path / "b.zarr", data, levels=3, chunks=chunks)
    (layer,) = viewer.open(path, plugin="napari-attnseg")
    assert layer.multiscale
    assert [tuple(d.shape) for d in layer.data] == [(2, 2304, 16), (2, 1152, 8), (2, 576, 4)]
    np.testing.assert_allclose(layer.scale, (3.0, 0.5, 0.25))


def test_folders_of_pictures_are_left_to_others(tmp_path: Path) -> None:
    from PIL import Image

    from napari_attnseg.viewer.reader import get_reader

    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(tmp_path / "a.png")) is None
