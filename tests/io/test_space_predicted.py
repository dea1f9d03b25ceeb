"""One scan stored in all 48 orientations: the predicted mask is the same one in the world."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform

from napari_attnseg.engine.session import Session
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image
from nifti_spaces import ALL_48, affine_of

SHAPE = (17, 19, 2)  # R, A, S: every pair of in-plane axes differs


def original() -> nib.Nifti1Image:
    """A scan with soft blobs, so that a model of random weights finds something."""
    rng = np.random.default_rng(3)
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    data = sum(
        np.exp(-((i - a) ** 2 + (j - b) ** 2) / 8.0) * (k + 1)
        for a, b in rng.uniform(3, 15, (4, 2))
    )
    affine = affine_of((0, 1, 2), (1, 1, 1))
    return nib.Nifti1Image((1000 * data).astype(np.int16), affine)


def predicted(session: Session, path: Path, mask: Path) -> nib.Nifti1Image:
    source = read_image(path)
    session.set_image(source)
    chance = np.stack([np.array(session.predict(z).probability) for z in range(session.n_slices)])
    labels = (chance > np.median(chance)).astype(np.uint8)  # random weights know no 0.5
    assert write_mask(mask, labels, source).voxel_to_world_equal
    return nib.load(mask)


def test_the_mask_does_not_depend_on_how_the_scan_is_stored(tiny_checkpoint, tmp_path):
    session = Session(tiny_checkpoint, "cpu")
    scan = original()
    nib.save(scan, tmp_path / "scan.nii")
    first = predicted(session, tmp_path / "scan.nii", tmp_path / "first.nii")
    want = np.asarray(first.dataobj)
    assert 0.2 < want.mean() < 0.8
    home = io_orientation(scan.affine)
    for order, signs in ALL_48:
        turn = ornt_transform(home, io_orientation(affine_of(order, signs)))
        nib.save(scan.as_reoriented(turn), tmp_path / "turned.nii")
        mask = predicted(session, tmp_path / "turned.nii", tmp_path / "mask.nii")
        back = mask.as_reoriented(ornt_transform(io_orientation(mask.affine), home))
        assert np.array_equal(np.asarray(back.dataobj), want), (order, signs)
        np.testing.assert_allclose(back.affine, scan.affine, atol=1e-4)
