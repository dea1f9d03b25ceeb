"""DICOM as it lies in folders: among other files, compressed, shown in white, rescaled by frame."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import JPEGLSLossless, RLELossless

from dicom_series import positions, turned, values, write_enhanced, write_series
from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom import read_dicom
from napari_attnseg.io.image import read_image

sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")


def by_itk(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]


def test_other_files_beside_the_slices_do_not_matter(tmp_path: Path) -> None:
    """A report, a presentation state, a DICOMDIR, an export's html, pictures, hidden files."""
    folder = tmp_path / "CD"
    files = write_series(folder / "IMAGES" / "S1")
    report = pydicom.dcmread(files[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.Modality = "SR"
    for place in (folder / "IMAGES" / "S1" / "report", folder / "DICOMDIR"):
        report.save_as(place, enforce_file_format=True)
    (folder / "index.html").write_text("<html>viewer</html>")
    (folder / "IMAGES" / "S1" / "Thumbs.db").write_bytes(bytes(900))
    (folder / "IMAGES" / "S1" / ".DS_Store").write_bytes(b"DICM" * 50)
    (folder / "IMAGES" / "S1" / "empty.dcm").write_bytes(b"")
    volume = read_image(folder)
    np.testing.assert_array_equal(volume.view, values().astype(int) - 1024)
    assert volume.note == ""
    assert len(volume.slices) == 5


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_compressed_slices_are_those_of_itk(tmp_path: Path, syntax: str) -> None:
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls", reason="the extra dicom is not installed")
    for path in write_series(tmp_path / "s"):
        data = pydicom.dcmread(path)
        data.compress(syntax)
        data.save_as(path, enforce_file_format=True)
    volume = read_image(tmp_path / "s")
    np.testing.assert_array_equal(volume.view, values().astype(int) - 1024)
    for k, at in enumerate(volume.slices):
        np.testing.assert_array_equal(volume.view[k], by_itk(at[0]))


def test_a_compressed_slice_that_is_damaged_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s")
    for path in files:
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path, enforce_file_format=True)
    data = pydicom.dcmread(files[2])
    data.PixelData = pydicom.encaps.encapsulate([bytes(70)])
    data["PixelData"].VR = "OB"
    data.save_as(files[2], enforce_file_format=True)
    with pytest.raises(InputError, match=r"the pixels of 2\.dcm are damaged"):
        read_image(tmp_path / "s")


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_white_for_low_changes_no_units(tmp_path: Path, modality: str) -> None:
    """MONOCHROME1 says how values are shown, after all windows (PS3.3 C.7.6.3.1.2); HU and uptake
    mean what they mean. pydicom's modality transformation is the witness."""
    files = write_series(tmp_path / "s", PhotometricInterpretation="MONOCHROME1", Modality=modality)
    volume = read_image(tmp_path / "s")
    np.testing.assert_array_equal(volume.view, values().astype(int) - 1024)
    one = pydicom.dcmread(files[1])
    np.testing.assert_array_equal(volume.view[1], apply_modality_lut(one.pixel_array, one))
    assert "shown with white as the lowest value: values are kept" in volume.note


def test_a_mixed_series_is_refused(tmp_path: Path) -> None:
    kinds = ("MONOCHROME2",) * 4 + ("MONOCHROME1",)
    write_series(tmp_path / "s", PhotometricInterpretation=kinds)
    with pytest.raises(InputError, match="expected one kind of image in a series"):
        read_image(tmp_path / "s")


def test_every_frame_has_its_own_rescale_on_a_tilted_stack(tmp_path: Path) -> None:
    """Enhanced CT: the group of a frame wins over the shared one, and the stack is sheared."""
    places = positions(step=(0, 0.6, 2.5))
    path = write_enhanced(tmp_path / "e", values(), places, turned("z", 0))
    data = pydicom.dcmread(path)
    for k, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        if k != 3:
            own = Dataset()
            own.RescaleSlope, own.RescaleIntercept = str(k + 1), str(-10 * k)
            own.RescaleType = "HU"
            frame.PixelValueTransformationSequence = [own]
    data.save_as(path, enforce_file_format=True)
    volume = read_dicom(path)
    slopes, shifts = np.array([1, 2, 3, 1, 5]), np.array([0, -10, -20, -1024, -40])
    wanted = values().astype(int) * slopes[:, None, None] + shifts[:, None, None]
    np.testing.assert_array_equal(volume.view, wanted)
    assert "gantry tilt of 13.5 degrees" in volume.note
    for k in (0, 4):
        lps = volume.geometry.affine @ (0, 0, k, 1) * (-1, -1, 1, 1)
        np.testing.assert_allclose(lps[:3], places[k], atol=1e-9)


def test_a_slice_of_another_size_is_another_volume(tmp_path: Path) -> None:
    """A scout among the slices: the stack is not broken by it, both are named."""
    write_series(tmp_path / "s", series="1.2.3")
    write_series(tmp_path / "scout", values((1, 11, 13)), series="1.2.3")
    shutil.copy(tmp_path / "scout" / "0.dcm", tmp_path / "s" / "scout.dcm")
    with pytest.raises(InputError, match=r"2 volumes.*5 slices of 9 x 7.*1 slice of 13 x 11"):
        read_image(tmp_path / "s")
    np.testing.assert_array_equal(read_image(tmp_path / "s", 0).view, values().astype(int) - 1024)
