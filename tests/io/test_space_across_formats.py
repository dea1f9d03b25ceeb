"""One scan, its labels in every format: each voxel has one place in the world, whoever looks.

Every voxel has an id of its own, so its place is compared one by one: by our readers, by nibabel
and by SimpleITK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine

from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from nifti_spaces import affines, examples

sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
FORMATS = ("m.nii.gz", "m.nrrd", "m.mha", "m.ome.zarr")
LPS = np.array([-1.0, -1.0, 1.0])
SIZES = st.sampled_from([1, 2, 5, 7, 11])
TYPES = st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"])


def places(ids: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World position (N, 3) of the voxels with the ids 1, 2, ..., N."""
    index = np.argwhere(ids)
    assert len(index) == ids.size
    return apply_affine(affine, index)[np.argsort(ids.reshape(-1))]


def places_by_itk(path: Path) -> np.ndarray:
    """The same, RAS, as SimpleITK finds them."""
    image = sitk.ReadImage(str(path))
    ids = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    turn = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = LPS[:, None] * turn * image.GetSpacing()
    affine[:3, 3] = LPS * image.GetOrigin()
    return places(ids, affine)


def is_square(affine: np.ndarray) -> bool:
    """Whether the axes stand at right angles: ITK takes no other NIfTI."""
    turn = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.abs(turn.T @ turn - np.eye(3)).max() < 1e-5


@settings(
    max_examples=examples(15),
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(affines(), TYPES, st.tuples(SIZES, SIZES, SIZES), st.integers(0, 9))
def test_a_voxel_is_in_one_place_in_every_format(
    tmp_path: Path, affine: np.ndarray, dtype: str, shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scan = nib.Nifti1Image(rng.integers(0, 120, shape).astype(dtype), affine)
    nib.save(scan, tmp_path / "scan.nii")
    source = read_image(tmp_path / "scan.nii")
    ids = rng.permutation(np.arange(1, np.prod(shape) + 1)).reshape(shape).astype(np.uint16)
    stored: Any = nib.load(tmp_path / "scan.nii")
    truth = places(ids, stored.affine)
    in_view = ids.transpose(source.geometry.order)
    far = 1e-9 * (1 + np.abs(truth).max())
    for name in FORMATS:
        path = tmp_path / name
        if name.endswith("zarr") and source.geometry.is_oblique:
            with pytest.raises(ExportError, match="turned by"):
                write_mask(path, in_view, source)
            continue
        write_mask(path, in_view, source)
        again = read_mask(path)
        if again.geometry is None:  # OME-Zarr: one slice is a picture, with the size of its pixels
            assert name.endswith("zarr")
            assert source.shape[0] == 1
            assert again.spacing_mm[1:] == source.spacing_mm[1:]
            continue
        shear = 1e-4 * np.abs(truth).max() if name.endswith("zarr") else 0  # "straight" to 0.006°
        np.testing.assert_allclose(
            places(again.data, again.geometry.affine), truth, rtol=0, atol=far + shear
        )
        if name.endswith((".nrrd", ".mha")):
            np.testing.assert_allclose(places_by_itk(path), truth, rtol=0, atol=far)
        elif name.endswith(".nii.gz") and is_square(stored.affine):
            np.testing.assert_allclose(places_by_itk(path), truth, rtol=0, atol=2e-3)
