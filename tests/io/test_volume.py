"""Volumes: one road for 2D, stacks, colour and scans."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.volume import Volume

TURNED = np.array([[0, 2.0, 0, 5], [0, 0, -3.0, 6], [1.0, 0, 0, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "rgb", "view"),
    [
        ((11, 13), False, (1, 11, 13)),
        ((7, 11, 13), False, (7, 11, 13)),
        ((11, 13, 3), True, (1, 11, 13, 3)),
        ((11, 13, 4), True, (1, 11, 13, 3)),
        ((7, 11, 13, 3), True, (7, 11, 13, 3)),
        ((7, 11, 3), True, (1, 7, 11, 3)),
        ((3, 7, 11), False, (3, 7, 11)),
    ],
)
def test_arrays_become_volumes(shape, rgb, view):
    data = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    volume = Volume.from_array(data)
    assert volume.rgb is rgb
    assert volume.view.shape == view
    assert volume.spacing_mm == ()
    assert volume.display_scale == (1, 1, 1)
    labels = np.arange(np.prod(view[:3])).reshape(view[:3])
    back = volume.to_file_order(labels)
    assert back.shape == (shape[:-1] if rgb else shape)
    assert np.array_equal(back.ravel(), labels.ravel())


def test_a_thin_stack_can_be_said_not_to_be_colour():
    assert Volume.from_array(np.zeros((9, 8, 3)), rgb=False).shape == (9, 8, 3)


@pytest.mark.parametrize("shape", [(5,), (0, 4), (2, 3, 4, 5), (1, 2, 3, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="expected"):
        Volume.from_array(np.zeros(shape))


def test_geometry_permutes_labels_and_colour_without_copies():
    data = np.random.default_rng(0).random((7, 11, 13, 3))
    volume = Volume(data, Geometry(TURNED, (7, 11, 13)), rgb=True)
    assert volume.shape == (7, 13, 11)
    assert np.shares_memory(volume.view, data)
    grey = data[..., 0]
    assert np.array_equal(volume.to_file_order(volume.view[..., 0]), grey)
    assert np.array_equal(volume.to_file_order(volume.view), data)


def test_two_dimensional_nifti_keeps_two_dimensions():
    data = np.random.default_rng(0).random((7, 11))
    volume = Volume(data, Geometry(np.diag([-2.0, -3.0, 5.0, 1.0]), (7, 11, 1)))
    assert volume.shape == (1, 11, 7)
    assert np.array_equal(volume.to_file_order(volume.view), data)
    assert volume.spacing_mm == (5, 3, 2)


def test_a_foreign_mask_is_refused():
    with pytest.raises(InputError, match="use the mask made from this image"):
        Volume.from_array(np.zeros((5, 6))).to_file_order(np.zeros((1, 6, 5)))
