"""Formats of the export: which are offered, which comes first, and labels saved by napari."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_series import positions, turned, write_series
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer.writer import filters_of, suggested_suffix, with_ending
from zarr_images import ranks, write

pytestmark = pytest.mark.gui


def test_the_first_format_is_the_one_of_the_image(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    scan = read_image(tmp_path / "s")
    assert filters_of(scan, 5).startswith("NIfTI (*.nii.gz *.nii);;DICOM segmentation (*.dcm);;")
    cells = read_image(write(tmp_path / "a.zarr", ranks()))
    assert filters_of(cells, 7).startswith("OME-Zarr labels")
    assert "DICOM" not in filters_of(cells, 7)
    assert suggested_suffix(replace(scan, kind="nrrd"), 5) == ".nrrd"
    picture = Volume(np.zeros((4, 5), np.uint8))
    assert suggested_suffix(picture, 1) == ".png"
    assert filters_of(picture, 1).startswith("PNG")
    assert filters_of(None, 3).startswith("TIFF")


@pytest.mark.parametrize(
    ("given", "chosen", "path"),
    [
        ("a/m.nii.gz", "DICOM segmentation (*.dcm)", "a/m.dcm"),
        ("a/m.nii", "NIfTI (*.nii.gz *.nii)", "a/m.nii"),
        ("a/m.v2", "NRRD (*.nrrd)", "a/m.v2.nrrd"),
        ("a/m.png", "OME-Zarr labels (*.ome.zarr *.zarr)", "a/m.ome.zarr"),
        ("a/m.tif", "", "a/m.tif"),
    ],
)
def test_the_ending_follows_the_format_that_was_chosen(given: str, chosen: str, path: str) -> None:
    assert with_ending(given, chosen) == path


def test_napari_saves_labels_of_a_dicom_series_and_of_an_ome_zarr(
    make_napari_viewer, tmp_path: Path
) -> None:
    turn = turned("x", 21)
    write_series(tmp_path / "s", places=positions(step=turn[:, 2] * 2.5), turn=turn)
    viewer = make_napari_viewer()
    (image,) = viewer.open(tmp_path / "s", plugin="napari-attnseg")
    drawn = np.zeros(image.data.shape, np.uint8)
    drawn[3, 2, 4] = 1
    labels = viewer.add_labels(drawn, scale=image.scale, translate=image.translate)
    labels.save(str(tmp_path / "m.dcm"), plugin="napari-attnseg")
    file = pydicom.dcmread(tmp_path / "m.dcm")
    (lit,) = np.argwhere(file.pixel_array.reshape(-1, *drawn.shape[1:]))
    frames = (*file.PerFrameFunctionalGroupsSequence, *file.SharedFunctionalGroupsSequence)
    at = next(f for f in frames if "PlanePositionSequence" in f).PlanePositionSequence[0]
    np.testing.assert_allclose(at.ImagePositionPatient, positions(step=turn[:, 2] * 2.5)[3])
    assert tuple(lit[1:]) == (2, 4)
    viewer.layers.clear()
    (cells,) = viewer.open(write(tmp_path / "a.zarr", ranks()), plugin="napari-attnseg")
    drawn = np.zeros(cells.data.shape, np.uint8)
    drawn[1, 2, 3] = 2
    labels = viewer.add_labels(drawn, scale=cells.scale, translate=cells.translate)
    labels.save(str(tmp_path / "m.ome.zarr"), plugin="napari-attnseg")
    mask = read_mask(tmp_path / "m.ome.zarr")
    np.testing.assert_array_equal(mask.view, drawn)
    assert mask.spacing_mm == (3.0, 0.5, 0.25)
    (again,) = viewer.open(tmp_path / "m.ome.zarr", plugin="napari-attnseg")
    assert type(again).__name__ == "Labels"
    np.testing.assert_array_equal(again.data, drawn)
    np.testing.assert_allclose(again.data_to_world((1, 2, 3)), cells.data_to_world((1, 2, 3)))
