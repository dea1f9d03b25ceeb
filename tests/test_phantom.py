"""The shipped phantom is what its script draws, and puts geometry to work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.io.image import read_image, read_mask

FOLDER = Path(__file__).resolve().parents[1] / "sample_data"
NAMES = ("ct_phantom.nii.gz", "ct_phantom_labels.nii.gz")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    command = [sys.executable, str(FOLDER / "make_phantom.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_script_draws_the_shipped_files(drawn):
    image, labels = (read_image(FOLDER / n) for n in NAMES)
    again, labels_again = (read_image(drawn / n) for n in NAMES)
    # another processor may round a formula the other way: one step of 4 HU in few voxels
    assert np.abs(image.data.astype(int) - again.data).max() <= 4
    assert (image.data != again.data).mean() < 1e-3
    assert np.array_equal(labels.data, labels_again.data)
    assert image.geometry.same_space(again.geometry)


def test_it_is_small_oblique_and_must_be_turned():
    image, labels = read_image(FOLDER / NAMES[0]), read_mask(FOLDER / NAMES[1])
    assert sum((FOLDER / n).stat().st_size for n in NAMES) < 400_000
    assert image.geometry.is_oblique
    assert image.flips == (False, True, True)
    assert image.spacing_mm == pytest.approx((4.5, 3, 3))
    assert labels.geometry.same_space(image.geometry)
    assert np.unique(labels.data).tolist() == [0, 1, 2, 3]


def test_organs_stand_where_they_stand_in_people():
    """In the world, not in the array: liver right, spleen left, kidneys behind both."""
    labels = read_mask(FOLDER / NAMES[1])
    centre = {}
    for organ in (1, 2, 3):
        ijk = np.argwhere(labels.data == organ).mean(0)
        centre[organ] = labels.geometry.affine[:3, :3] @ ijk + labels.geometry.affine[:3, 3]
    right, left, kidneys = centre[1], centre[2], centre[3]
    assert right[0] > left[0] + 100  # R is positive
    assert kidneys[1] < right[1]  # A is positive
    assert kidneys[2] < min(right[2], left[2])  # S is positive


def test_hounsfield_units_are_those_of_tissue():
    image, labels = read_image(FOLDER / NAMES[0]), read_mask(FOLDER / NAMES[1])
    assert image.data.min() == -1000
    for organ, low, high in ((1, 45, 65), (2, 30, 50), (3, 25, 50)):
        assert low < image.data[labels.data == organ].mean() < high
