"""DICOM folders: order, values and places against SimpleITK, which reads each file on its own."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_series import (
    COLUMNS,
    ROWS,
    SLICES,
    head,
    positions,
    turned,
    values,
    write_enhanced,
    write_series,
)
from napari_attnseg.errors import InputError
from napari_attnseg.io import dicom_pixels
from napari_attnseg.io.dicom import ManySeries, read_dicom
from napari_attnseg.io.image import image_size, read_image
from napari_attnseg.io.volume import Volume

sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
OBLIQUE = turned("x", 21) @ turned("z", -33) @ turned("y", 12)


def shuffled(count: int = SLICES) -> list[str]:
    names = [f"IM{i:04d}" for i in range(count)]
    random.Random(4).shuffle(names)
    return names


def assert_as_itk_sees_each_file(volume: Volume) -> None:
    """Values and world places of every slice, file by file."""
    assert volume.geometry is not None
    seen = 0
    for k, at in enumerate(volume.slices):
        if at is None:
            continue
        image = sitk.ReadImage(str(at[0]))
        np.testing.assert_array_equal(volume.data[:, :, k], sitk.GetArrayViewFromImage(image)[0].T)
        for i, j in ((0, 0), (COLUMNS - 1, 0), (2, ROWS - 1), (5, 3)):
            lps = image.TransformIndexToPhysicalPoint((i, j, 0))
            ras = volume.geometry.affine @ (i, j, k, 1)
            np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-6)
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("which", ["folder", "any file"])
def test_an_oblique_series_with_shuffled_names(tmp_path: Path, which: str) -> None:
    places = positions(step=OBLIQUE[:, 2] * 2.5)
    files = write_series(tmp_path / "s", places=places, turn=OBLIQUE, names=shuffled())
    volume = read_image(tmp_path / "s" if which == "folder" else files[3])
    assert volume.data.shape == (COLUMNS, ROWS, SLICES)
    assert volume.data.dtype == np.int16
    assert volume.note == volume.assumed == ""
    np.testing.assert_array_equal(volume.data.transpose(2, 1, 0), values().astype(int) - 1024)
    assert_as_itk_sees_each_file(volume)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    whole = reader.Execute()
    for at in ((0, 0, 0), (4, 5, 3), (8, 6, 4)):
        lps = np.array(whole.TransformIndexToPhysicalPoint(at))
        ras = volume.geometry.affine @ (*at, 1)
        np.testing.assert_allclose(ras[:3], lps * (-1, -1, 1), atol=1e-5)
        assert whole.GetPixel(at) == volume.data[at]
    assert image_size(tmp_path / "s") == volume.shape


def test_the_affine_of_a_straight_series_by_hand(tmp_path: Path) -> None:
    write_series(tmp_path / "s", names=shuffled())
    volume = read_dicom(tmp_path / "s")
    by_hand = [[-0.75, 0, 0, 31.25], [0, -1.5, 0, -17.5], [0, 0, 2.5, 402], [0, 0, 0, 1]]
    np.testing.assert_array_equal(volume.geometry.affine, by_hand)
    assert volume.geometry.axcodes == "LPS"


def test_a_tilted_gantry_gives_a_sheared_affine_and_is_said(tmp_path: Path) -> None:
    tilt = turned("x", 15)
    write_series(tmp_path / "s", places=positions(step=(0, 0, 3)), turn=tilt, names=shuffled())
    volume = read_dicom(tmp_path / "s")
    assert "gantry tilt of 15.0 degrees" in volume.note
    assert_as_itk_sees_each_file(volume)


def test_missing_slices_are_blank_and_said(tmp_path: Path) -> None:
    pixels, places = values((11, ROWS, COLUMNS)), positions(11)
    keep = [0, 1, 2, 4, 5, 6, 7, 8, 10]
    write_series(tmp_path / "s", pixels[keep], places[keep], names=shuffled(9))
    volume = read_dicom(tmp_path / "s")
    assert volume.shape == (11, ROWS, COLUMNS)
    assert "2 slices are missing (number 3, 9, from 0)" in volume.note
    assert [k for k, at in enumerate(volume.slices) if at is None] == [3, 9]
    assert (volume.data[:, :, [3, 9]] == volume.data.min()).all()
    assert_as_itk_sees_each_file(volume)


def test_uneven_slices_are_refused_and_small_unevenness_is_said(tmp_path: Path) -> None:
    places = positions()
    places[2, 2] += 0.1
    write_series(tmp_path / "a", places=places)
    assert "right to 0.1 mm" in read_dicom(tmp_path / "a").note
    places[2, 2] += 0.9
    write_series(tmp_path / "b", places=places)
    with pytest.raises(InputError, match=r"1\.5 to 3\.5 mm apart.*nothing is interpolated"):
        read_dicom(tmp_path / "b")


def test_copies_are_left_out_and_two_images_at_one_place_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s")
    shutil.copy(files[2], tmp_path / "s" / "again.dcm")
    volume = read_dicom(tmp_path / "s")
    assert volume.shape[0] == SLICES
    assert "1 files are copies" in volume.note
    places = positions()
    places[3] = places[2]
    write_series(tmp_path / "t", places=places)
    with pytest.raises(InputError, match="2 different images at one place"):
        read_dicom(tmp_path / "t")


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    write_series(tmp_path / "s", names=shuffled(), series="1.2.3.1")
    more = values((3, ROWS, COLUMNS), 5)
    write_series(tmp_path / "s" / "sub", more, series="1.2.3.2", SeriesDescription="scout")
    with pytest.raises(ManySeries, match=r"0: thin \(CT, 5 slices of 9 x 7\); 1: scout") as many:
        read_image(tmp_path / "s")
    assert many.value.count == 2
    assert many.value.uids == ("1.2.3.1", "1.2.3.2")
    for choice in (1, "1", "1.2.3.2"):
        volume = read_image(tmp_path / "s", choice)
        assert volume.part == "1.2.3.2"
        np.testing.assert_array_equal(volume.view, more.astype(int) - 1024)
    for choice in (2, "1.2.3", "-1"):
        with pytest.raises(InputError, match="0: thin"):
            read_image(tmp_path / "s", choice)
    # a file stands for its own series
    assert read_image(tmp_path / "s" / "sub" / "0.dcm").part == "1.2.3.2"


def test_time_points_of_one_series_are_volumes(tmp_path: Path) -> None:
    pixels, places = values((6, ROWS, COLUMNS)), np.repeat(positions(3), 2, axis=0)
    write_series(tmp_path / "s", pixels, places, AcquisitionNumber=(1, 2, 1, 2, 1, 2))
    with pytest.raises(ManySeries, match=r"AcquisitionNumber 1; 1: .*AcquisitionNumber 2"):
        read_image(tmp_path / "s")
    np.testing.assert_array_equal(read_image(tmp_path / "s", 1).view, pixels[1::2] - 1024.0)


def test_another_slope_in_every_slice_gives_real_numbers(tmp_path: Path) -> None:
    slopes = ("0.5", "1.25", "2", "0.1", "1")
    write_series(tmp_path / "s", RescaleSlope=slopes, RescaleIntercept="0.25")
    volume = read_dicom(tmp_path / "s")
    assert volume.data.dtype == np.float32
    expected = values() * np.array(slopes, float)[:, None, None] + 0.25
    np.testing.assert_allclose(volume.view, expected, rtol=1e-6)


def test_enhanced_ct_in_one_file(tmp_path: Path) -> None:
    order = [2, 0, 4, 1, 3]
    places = positions(step=OBLIQUE[:, 2] * 2.5)
    path = write_enhanced(tmp_path / "e", values()[order], places[order], OBLIQUE)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.data.transpose(2, 1, 0), values().astype(int) - 1024)
    expected = places[3] + OBLIQUE @ (2 * 0.75, 5 * 1.5, 0)
    at = volume.geometry.affine @ (2, 5, 3, 1)
    np.testing.assert_allclose(at[:3] * (-1, -1, 1), expected, atol=1e-9)


def test_a_radiograph_is_a_picture(tmp_path: Path) -> None:
    image = values((ROWS, COLUMNS))
    data = head("1.2.9", image, 1)
    data.Modality, data.PhotometricInterpretation = "CR", "MONOCHROME1"
    del data.RescaleIntercept
    data.save_as(tmp_path / "x", enforce_file_format=True)
    volume = read_image(tmp_path / "x")
    assert volume.data.shape == (ROWS, COLUMNS)
    assert volume.pixel_mm == (1.0, 1.5, 0.75)
    np.testing.assert_array_equal(volume.data, 4095 - image.astype(int))
    assert "turned around" in volume.note


@pytest.mark.parametrize(
    ("syntax", "packages"),
    [
        ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.201", "pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.80", "napari-attnseg[dicom]"),
    ],
    ids=["JPEG lossless", "HTJ2K", "JPEG-LS"],
)
def test_the_package_that_decodes_it_is_named(syntax: str, packages: str) -> None:
    assert dicom_pixels._remedy(syntax) == f"pip install {packages}, or "


def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path: Path) -> None:
    files = write_series(tmp_path / "jpeg")
    data = pydicom.dcmread(files[1])
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2: no decoder for images
    data.PixelData = pydicom.encaps.encapsulate([bytes(200)])
    data["PixelData"].VR = "OB"
    data.save_as(files[1], enforce_file_format=True)
    with pytest.raises(InputError, match=r"is compressed \(MPEG2.*is installed: convert"):
        read_image(tmp_path / "jpeg")
    cut = write_series(tmp_path / "cut")[2]
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"2\.dcm (claims|is)|pixels of 2\.dcm are damaged"):
        read_image(tmp_path / "cut")
    giant = write_series(tmp_path / "giant", Rows=65535, Columns=65535)
    with pytest.raises(InputError, match=r"claims 8\.0 GB of pixels"):
        read_image(giant[0])
    bad = write_series(tmp_path / "bad", ImageOrientationPatient=["1", "0", "0", "1", "0", "0"])
    with pytest.raises(InputError, match="orientation"):
        read_image(bad[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder"):
        read_image(tmp_path / "empty")


def test_frames_that_a_file_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "s", values()[:1])
    data = pydicom.dcmread(file)
    data.NumberOfFrames = 2_000_000_000  # an object for each would take all memory
    data.save_as(file)
    for path in (file, file.parent):
        with pytest.raises(InputError, match="2,000,000,000 frames in so small a file"):
            read_image(path)
