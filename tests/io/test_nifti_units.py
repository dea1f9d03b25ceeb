"""NIfTI in metres and micrometres: millimetres everywhere, and the file's own units in its mask."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io import nifti_mapped
from napari_attnseg.io.agreement import agreement
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.measure_files import measure_file
from napari_attnseg.io.measure_space import space_of
from napari_attnseg.io.measures import measure
from napari_attnseg.io.suitability import facts_of_volume
from napari_attnseg.io.volume import Volume
from nifti_spaces import affine_of

sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
UNITS = {"mm": 1.0, "unknown": 1.0, "micron": 1e-3, "meter": 1e3}
LPS = np.array([-1.0, -1.0, 1.0])
SIZES = (0.25, 0.3, 0.5)
TRUE = affine_of((0, 1, 2), (-1, 1, 1), SIZES, degrees=(4, 0, 0), origin=(1.5, -4.0, 7.25))
"""Voxels of 0.25 x 0.3 x 0.5 mm, a little oblique."""
SHAPE = (5, 7, 9)


def scan(folder: Path, unit: str, **forms: int) -> Path:
    """The same scan, its lengths told in another unit."""
    affine = TRUE.copy()
    affine[:3] /= UNITS[unit]
    image = nib.Nifti1Image(np.arange(315, dtype=np.int16).reshape(SHAPE), affine)
    image.set_sform(affine, forms.get("sform", 1))
    image.set_qform(affine, forms.get("qform", 0))
    image.header.set_xyzt_units(unit, "msec")
    nib.save(image, folder / f"{unit}.nii")
    return folder / f"{unit}.nii"


def by_itk(path: Path) -> np.ndarray:
    """The RAS affine in mm that SimpleITK finds, which knows the units."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    turn = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = LPS[:, None] * turn * image.GetSpacing()
    affine[:3, 3] = LPS * image.GetOrigin()
    return affine


@pytest.mark.parametrize(
    "forms", [{"sform": 1}, {"sform": 0, "qform": 1}, {"sform": 2, "qform": 1}]
)
@pytest.mark.parametrize("unit", UNITS)
def test_places_are_millimetres_as_itk_finds_them(tmp_path: Path, unit: str, forms: dict) -> None:
    path = scan(tmp_path, unit, **forms)
    source = read_image(path)
    np.testing.assert_allclose(source.geometry.affine, by_itk(path), atol=1e-5)
    np.testing.assert_allclose(source.geometry.affine, TRUE, atol=1e-4)
    np.testing.assert_allclose(facts_of_volume(source).spacing_mm, SIZES[::-1], rtol=1e-5)
    assert ("measured and shown in millimetres" in source.note) is (UNITS[unit] != 1)
    assert "sform" not in source.note


@pytest.mark.parametrize("unit", UNITS)
def test_a_mask_keeps_the_units_of_its_scan(tmp_path: Path, unit: str) -> None:
    path, out = scan(tmp_path, unit), tmp_path / "mask.nii"
    source = read_image(path)
    done = write_mask(out, (source.view % 3).astype(np.uint8), source)
    assert done.voxel_to_world_equal
    old, new = path.read_bytes(), out.read_bytes()
    assert new[123] == old[123]  # xyzt_units, time included
    assert new[280:328] == old[280:328]  # sform
    assert new[76:108] == old[76:108]  # pixdim
    np.testing.assert_allclose(by_itk(out), by_itk(path), rtol=0, atol=0)
    assert np.array_equal(read_mask(out).geometry.affine, source.geometry.affine)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_other_formats_get_millimetres(tmp_path: Path, unit: str, ending: str) -> None:
    source = read_image(scan(tmp_path, unit))
    out = tmp_path / f"mask{ending}"
    write_mask(out, (source.view % 3).astype(np.uint8), source)
    np.testing.assert_allclose(by_itk(out), TRUE, atol=1e-5)


def test_measures_are_the_same_whatever_the_unit(tmp_path: Path) -> None:
    ids = np.zeros(SHAPE[::-1], np.uint8)
    ids[2:6, 1:5, 1:4] = 1
    other = np.roll(ids, 1, 0)
    truth = space_of(Volume(np.zeros(SHAPE, np.int16), Geometry(TRUE, SHAPE)))
    area = measure(ids, truth).classes[0].surface
    for unit in UNITS:
        space = space_of(read_image(scan(tmp_path, unit)))
        (region,) = measure(ids, space).classes
        assert region.size == pytest.approx(48 * np.prod(SIZES), rel=1e-5)
        assert region.surface == pytest.approx(area, rel=1e-5)
        (one,) = agreement(ids, other, space, tolerance=0.2)
        assert one.hd95 == pytest.approx(0.5, rel=1e-5)
        assert one.surface_dice < 1


def test_a_mask_that_lost_its_unit_is_told_from_one_of_another_scan(tmp_path: Path) -> None:
    path = scan(tmp_path, "micron")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), image.affine), tmp_path / "mask.nii")
    with pytest.raises(InputError, match=r"0\.001 times as large: one of the two headers names"):
        measure_file(tmp_path / "mask.nii", path)
    moved = image.affine.copy()
    moved[0, 3] += 9000
    other = nib.Nifti1Image(np.ones(SHAPE, np.uint8), moved, image.header)
    nib.save(other, tmp_path / "moved.nii")
    with pytest.raises(InputError, match="voxels apart; take files of the same scan"):
        measure_file(tmp_path / "moved.nii", path)


def test_a_mapped_scan_is_scaled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti_mapped, "MAPPED_BYTES", 1)
    path = scan(tmp_path, "micron")
    found = nifti_mapped.map_nifti(path, lambda size: tmp_path)
    assert found is not None
    assert np.array_equal(found.geometry.affine, read_image(path).geometry.affine)
    assert found.note == read_image(path).note


def test_contradictions_are_told_in_millimetres(tmp_path: Path) -> None:
    path = scan(tmp_path, "micron")
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(900).tobytes()  # pixdim[1], micrometres
    path.write_bytes(raw)
    assert "voxel size 0.9 x 0.3 x 0.5 in the header, 0.25 x " in read_image(path).note
