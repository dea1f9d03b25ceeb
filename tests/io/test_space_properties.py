"""Whatever the space of a scan: read, labelled and exported, every voxel stays where it was.

The labels are made from the pixels that were read, and compared with the pixels that nibabel finds
in the file: a voxel that moved, or an axis that was turned, has another number.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.processing import resample_from_to

from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume
from nifti_spaces import (
    ALL_48,
    RGB,
    SHAPE,
    TYPES,
    Space,
    affine_of,
    affines,
    examples,
    mm_affine,
    sform_of,
    spaces,
    write,
)

LIMITS = settings(
    max_examples=examples(30),
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking a file costs minutes and tells little
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
A_MASK_S_OWN = {
    *("dim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "cal_min", "cal_max"),
    *("magic", "descrip", "intent_code", "intent_name", "sizeof_hdr", "glmin", "glmax"),
    *("data_type", "db_name", "aux_file"),  # free text
}
PLAIN = Space(affine_of((0, 1, 2), (1, 1, 1)), 1, 1, affine_of((0, 1, 2), (1, 1, 1)))


def ids_of(values: np.ndarray) -> np.ndarray:
    """A number from 0 to 255 for every value: equal values alike, places told apart."""
    coarse = values.astype(np.float64)
    weighed = coarse @ (1.0, 3.0, 7.0) if values.shape[-1:] == (3,) else coarse
    return (np.floor(weighed * 8) % 251).astype(np.uint8)


def round_trip(folder: Path, space: Space, name: str = "mask.nii") -> tuple[Path, Path, Volume]:
    """The scan, the mask exported over it and what was read."""
    scan, mask = folder / "scan.nii", folder / name
    write(scan, space)
    index = space.shape[3] - 1 if len(space.shape) > 3 else None
    source = read_image(scan, index)
    done = write_mask(mask, ids_of(source.view), source)
    assert done.voxel_to_world_equal
    return scan, mask, source


@LIMITS
@given(spaces())
@example(replace(PLAIN, sform=0, qform=0, pixdim=(-2.5, 0.0, 3.5)))
@example(replace(PLAIN, sform=0, qform=3, pixdim=(-2.5, 0.0, 3.5)))
@example(replace(PLAIN, dtype="float64", slope=0.37, inter=0.25, two=True, order=">"))
@example(replace(PLAIN, shape=(5, 7), sform=0, qform=1, pixdim=(1.0, 3.5, 0.0)))
def test_every_voxel_of_the_mask_lies_on_its_voxel_of_the_scan(tmp_path, space):
    scan, mask, source = round_trip(tmp_path, space)
    theirs, again = nib.load(scan), nib.load(mask)
    pixels = np.asarray(theirs.dataobj)
    if pixels.ndim > 3:
        pixels = pixels[:, :, :, -1]
    if pixels.dtype.names:
        pixels = np.stack([pixels[c] for c in "RGB"], -1)
    np.testing.assert_allclose(source.data, pixels, rtol=1e-6)
    assert again.shape == pixels.shape[: len(space.shape[:3])]
    assert np.array_equal(np.asarray(again.dataobj), ids_of(source.data))
    assert np.array_equal(again.affine, theirs.affine)
    assert np.array_equal(source.geometry.affine, mm_affine(theirs))
    assert np.array_equal(read_mask(mask).view, ids_of(source.view))


@LIMITS
@given(spaces())
def test_the_header_is_kept_but_for_what_a_mask_is_not(tmp_path, space):
    scan, mask, _ = round_trip(tmp_path, space)
    old, new = nib.load(scan).header, nib.load(mask).header
    assert type(new) is type(old)
    for key in set(old.keys()) - A_MASK_S_OWN:
        assert np.array_equal(np.asarray(new[key]), np.asarray(old[key])), key


@LIMITS
@given(affines(), st.sampled_from([1, 2, 4]), st.sampled_from(TYPES))
def test_the_sform_goes_from_file_to_file_in_every_bit(tmp_path, affine, code, dtype):
    """By the standard's own table of bytes: no library in between."""
    scan, mask, source = round_trip(
        tmp_path, replace(PLAIN, affine=affine, sform=code, dtype=dtype)
    )
    raw = mask.read_bytes()
    assert raw[280:328] == scan.read_bytes()[280:328]
    assert np.array_equal(source.geometry.affine, sform_of(raw))
    assert raw[254:256] == bytes([code, 0])


@LIMITS
@given(spaces())
def test_a_space_nobody_stated_is_said_and_one_that_is_stated_is_not(tmp_path, space):
    scan, _, source = round_trip(tmp_path, space)
    header = nib.load(scan).header
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    assert bool(source.assumed) is not stated


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_all_48_orientations_in_each_half_of_the_header(tmp_path, order, signs):
    """The orientation by sform alone, by qform alone and, with other spacing, by both."""
    affine = affine_of(order, signs)
    proper = np.linalg.det(affine[:3, :3])
    assert abs(proper) > 1
    for sform, qform in ((2, 0), (0, 1), (1, 4)):
        space = replace(PLAIN, affine=affine, second=affine, sform=sform, qform=qform)
        scan, mask, source = round_trip(tmp_path, space)
        assert np.array_equal(nib.load(mask).affine, nib.load(scan).affine)
        np.testing.assert_allclose(source.geometry.affine, affine, atol=1e-4)
        assert source.geometry.axcodes == "".join(nib.aff2axcodes(affine))
        assert source.note == ""


@LIMITS
@given(affines(), affines(shear=False, oblique=False))
def test_a_second_library_resamples_both_to_the_same_places(tmp_path, affine, grid):
    """nibabel.processing (scipy) puts scan and mask on a grid of its own: they still agree."""
    scan, mask, _ = round_trip(tmp_path, replace(PLAIN, affine=affine))
    centre = apply_affine(affine, (np.array(SHAPE) - 1) / 2)
    fine = np.linalg.norm(affine[:3, :3], axis=0).min() / 2  # every voxel is met
    grid[:3, :3] *= fine / np.linalg.norm(grid[:3, :3], axis=0)
    grid[:3, 3] = centre - grid[:3, :3] @ (5.5, 5.5, 5.5)
    kept = [
        resample_from_to(nib.load(path), ((12, 12, 12), grid), order=0, mode="constant", cval=-1)
        for path in (scan, mask)
    ]
    pixels, ids = (np.asarray(image.dataobj) for image in kept)
    inside = pixels >= 0
    assert inside.sum() > 20
    assert np.array_equal(ids[inside], ids_of(pixels[inside]))


@LIMITS
@given(affines(), st.tuples(*[st.integers(0, n - 1) for n in SHAPE]))
def test_a_marked_voxel_has_one_world_position_for_both_sides(tmp_path, affine, ijk):
    scan = tmp_path / "scan.nii"
    space = replace(PLAIN, affine=affine)
    values = write(scan, space)
    source = read_image(scan)
    labels = (source.view == values[ijk]).astype(np.uint8)
    write_mask(tmp_path / "mask.nii.gz", labels, source)
    again = nib.load(tmp_path / "mask.nii.gz")
    (found,) = np.argwhere(np.asarray(again.dataobj))
    world = apply_affine(again.affine, found)
    np.testing.assert_allclose(world, apply_affine(affine, ijk), atol=2e-3)  # float32 header
    zyx = np.argwhere(labels)[0]
    ours = np.empty(3)
    ours[list(source.geometry.order)] = zyx
    assert np.array_equal(apply_affine(source.geometry.affine, ours), world)


@LIMITS
@given(affines(oblique=False, shear=False))
def test_a_straight_scan_is_shown_where_it_is(tmp_path, affine):
    """Scale and translation give (S, P, L) of nibabel's world position, voxel by voxel."""
    scan = tmp_path / "scan.nii"
    values = write(scan, replace(PLAIN, affine=affine))
    source = read_image(scan)
    stored = nib.load(scan).affine
    for ijk in ((0, 0, 0), (4, 6, 8), (1, 5, 2)):
        zyx = np.argwhere(source.view == values[ijk])[0]
        shown = np.array(source.display_translate) + np.array(source.display_scale) * zyx
        x, y, z = apply_affine(stored, ijk)
        np.testing.assert_allclose(shown, (z, -y, -x), atol=1e-3)


def test_colour_is_one_pixel_and_not_three(tmp_path):
    _, mask, source = round_trip(tmp_path, replace(PLAIN, dtype=RGB))
    assert source.rgb
    assert nib.load(mask).shape == SHAPE


def test_contradictions_in_a_header_are_said(tmp_path):
    near, far = affine_of((0, 1, 2), (1, 1, 1)), affine_of((0, 1, 2), (-1, 1, 1))
    for space, words in (
        (replace(PLAIN, second=far), "sform and qform place it up to"),
        (
            replace(PLAIN, second=near, pixdim=(0.7, 1.9, 9.0), qform=0),
            "0.7 x 1.9 x 9 in the header",
        ),
        (replace(PLAIN, second=near, pixdim=(-0.7, 0, 3.1), qform=0), "pixdim[1,2,3] should be"),
        (replace(PLAIN, second=near), ""),
    ):
        write(tmp_path / "scan.nii", space)
        note = read_image(tmp_path / "scan.nii").note
        assert words in note
        assert bool(words) is bool(note)
