"""Geometry: every orientation, oblique grids, and what napari is told."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import io_orientation

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry

SHAPE = (7, 11, 13)
SPACING = (0.7, 1.9, 3.1)
ALL_48 = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


def axis_affine(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """File axis a runs along world axis order[a] with the given sign."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a in range(3):
        affine[order[a], a] = signs[a] * SPACING[a]
    affine[:3, 3] = (-31.25, 17.5, 402.0)
    return affine


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_every_orientation_shows_each_voxel_at_its_place(order, signs):
    geometry = Geometry(axis_affine(order, signs), SHAPE)
    assert geometry.axcodes == "".join(nib.aff2axcodes(geometry.affine))
    assert not geometry.is_oblique
    scale, translate = np.array(geometry.display_scale), np.array(geometry.display_translate)
    for ijk in product((0, 3, 6), (0, 10), (5, 12)):
        ras = geometry.affine[:3, :3] @ ijk + geometry.affine[:3, 3]
        spl = np.array([ras[2], -ras[1], -ras[0]])
        zyx = np.array(ijk)[list(geometry.order)]
        np.testing.assert_allclose(translate + scale * zyx, spl, atol=1e-11)


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_flips_turn_every_orientation_into_one_standing(order, signs):
    """After transposing and flipping, the last voxel is the most S, P and L one."""
    geometry = Geometry(axis_affine(order, signs), SHAPE)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ras = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    view = np.transpose(ras, (*geometry.order, 3))
    view = np.flip(view, [a for a in range(3) if geometry.flips[a]])
    assert (np.diff(view[:, 0, 0, 2]) > 0).all()
    assert (np.diff(view[0, :, 0, 1]) < 0).all()
    assert (np.diff(view[0, 0, :, 0]) < 0).all()


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_permutation_and_back_is_exact(order, signs):
    geometry = Geometry(axis_affine(order, signs), SHAPE)
    data = np.random.default_rng(0).random(SHAPE)
    view = np.transpose(data, geometry.order)
    assert view.shape == geometry.view_shape
    assert np.shares_memory(view, data)
    assert np.array_equal(np.transpose(view, geometry.inverse_order), data)


@pytest.mark.parametrize(("order", "signs"), ALL_48[::5])
@pytest.mark.parametrize("degrees", [(10, 0, 0), (8, -12, 5), (-20, 15, 25)])
def test_oblique_agrees_with_nibabel_and_keeps_the_centre(order, signs, degrees):
    affine = axis_affine(order, signs)
    affine[:3, :3] = rotation(degrees) @ affine[:3, :3]
    geometry = Geometry(affine, SHAPE)
    assert geometry.is_oblique
    ornt = io_orientation(affine)
    assert [int(ornt[a, 0]) for a in geometry.order] == [2, 1, 0]
    np.testing.assert_allclose(geometry.spacing_mm, [SPACING[a] for a in geometry.order])
    middle = (np.array(SHAPE) - 1) / 2
    ras = affine[:3, :3] @ middle + affine[:3, 3]
    shown = np.array(geometry.display_translate) + np.array(geometry.display_scale) * np.array(
        [middle[a] for a in geometry.order]
    )
    np.testing.assert_allclose(shown, [ras[2], -ras[1], -ras[0]], atol=1e-10)


def test_oblique_is_told_from_float32_rounding():
    affine = axis_affine((0, 1, 2), (1, 1, 1)).astype(np.float32).astype(float)
    affine[0, 1] = 1e-6
    assert not Geometry(affine, SHAPE).is_oblique
    affine[0, 1] = 0.05
    geometry = Geometry(affine, SHAPE)
    assert geometry.is_oblique
    assert geometry.tilt_degrees == pytest.approx(np.degrees(np.arctan2(0.05, 1.9)))


def test_radiological_standing_needs_no_flip():
    """LPS on disk is what a radiologist sees: rows to the back, columns to the left."""
    geometry = Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), SHAPE)
    assert geometry.axcodes == "LPS"
    assert geometry.flips == (False, False, False)
    assert geometry.display_scale == (1, 1, 1)


def test_affine_is_kept_bit_for_bit_and_cannot_be_changed():
    affine = axis_affine((1, 2, 0), (1, -1, 1)) + 1e-17
    geometry = Geometry(affine, SHAPE, 1, 2)
    assert np.array_equal(geometry.affine, affine)
    affine[0, 0] = 99
    assert geometry.affine[0, 0] != 99
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 1


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.full((4, 4), np.nan), "non-finite"),
        (np.eye(3), "4x4"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), "voxel size of zero"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "parallel"),
    ],
)
def test_impossible_affines_are_refused(affine, word):
    with pytest.raises(InputError, match=word):
        Geometry(affine, SHAPE)


def test_same_space_wants_equal_bits():
    a = Geometry(np.eye(4), SHAPE)
    b = np.eye(4)
    b[0, 3] = np.nextafter(0, 1)
    assert a.same_space(Geometry(np.eye(4), SHAPE, 1, 1))
    assert not a.same_space(Geometry(b, SHAPE))
    assert not a.same_space(Geometry(np.eye(4), (7, 11, 12)))
