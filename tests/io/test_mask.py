"""Masks of every kind become ids by the rules of ``io.mask``."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_mask

RNG = np.random.default_rng(0)
ONE = RNG.random((11, 13)) > 0.6
IDS = RNG.integers(0, 5, (11, 13)).astype(np.uint8)


def saved(path: Path, data: np.ndarray | Image.Image, **options: object) -> Path:
    if path.suffix == ".tif" and isinstance(data, np.ndarray):
        tifffile.imwrite(path, data, **options)
    else:
        image = data if isinstance(data, Image.Image) else Image.fromarray(data)
        image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_grey_values_are_ids(tmp_path, suffix):
    mask = read_mask(saved(tmp_path / f"a.{suffix}", IDS))
    assert mask.data.dtype == np.uint8
    assert np.array_equal(mask.data, IDS)
    assert mask.note == ""


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_black_and_white_is_one_class(tmp_path, suffix):
    mask = read_mask(saved(tmp_path / f"a.{suffix}", ONE * np.uint8(255)))
    assert np.array_equal(mask.data, ONE)
    assert mask.note == "0 and 255 read as background and class 1"


def test_sixteen_bit_black_and_white_and_ids(tmp_path):
    for suffix in ("png", "tif"):
        mask = read_mask(saved(tmp_path / f"a.{suffix}", ONE * np.uint16(65535)))
        assert np.array_equal(mask.data, ONE)
        ids = RNG.integers(0, 900, (11, 13)).astype(np.uint16)
        mask = read_mask(saved(tmp_path / f"b.{suffix}", ids))
        assert mask.data.dtype == np.uint16
        assert np.array_equal(mask.data, ids)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_one_bit(tmp_path, suffix):
    mask = read_mask(saved(tmp_path / f"a.{suffix}", Image.fromarray(ONE)))
    assert np.array_equal(mask.data, ONE)


def test_white_is_zero_is_turned(tmp_path):
    path = saved(tmp_path / "a.tif", ~ONE, photometric="miniswhite")
    assert np.array_equal(read_mask(path).data, ONE)


def test_all_background_stays_background(tmp_path):
    mask = read_mask(saved(tmp_path / "a.png", np.zeros((5, 6), np.uint8)))
    assert not mask.data.any()


def test_jpeg_is_cut_at_128_and_says_so(tmp_path):
    square = np.zeros((40, 40), np.uint8)
    square[8:29, 5:31] = 255
    grey = read_mask(saved(tmp_path / "a.jpg", square, quality=60))
    colour = read_mask(saved(tmp_path / "b.jpg", np.dstack([square] * 3), quality=60))
    for mask in (grey, colour):
        assert np.array_equal(mask.data, square > 0)
        assert "grey from 128 read as class 1" in mask.note


def test_a_gif_named_jpg_keeps_its_ids(tmp_path):
    saved(tmp_path / "a.gif", IDS)
    (tmp_path / "a.gif").rename(tmp_path / "a.jpg")
    mask = read_mask(tmp_path / "a.jpg")
    assert np.array_equal(mask.data, IDS)
    assert "GIF although its name ends in .jpg" in mask.note


def palette_image(index: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.frombytes("P", index.shape[::-1], index.tobytes())
    image.putpalette([v for c in colours for v in c])
    return image


def test_colour_palette_gives_the_index(tmp_path):
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    for suffix in ("png", "tif"):
        path = saved(tmp_path / f"a.{suffix}", palette_image(IDS, colours))
        assert np.array_equal(read_mask(path).data, IDS)


def test_grey_palette_is_a_grey_image_even_upside_down(tmp_path):
    """Savers sort a black and white palette as they like: white may be index 0."""
    image = palette_image((~ONE).astype(np.uint8), [(255, 255, 255), (0, 0, 0)])
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", image)).data, ONE)


def test_transparent_palette_entry_is_background(tmp_path):
    image = palette_image(IDS, [(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0)])
    path = saved(tmp_path / "a.png", image, transparency=2)
    assert np.array_equal(read_mask(path).data, np.where(IDS == 2, 0, IDS))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_rgb_and_rgba_of_equal_channels_are_grey(tmp_path, suffix):
    rgb = np.dstack([IDS] * 3)
    options = {"photometric": "rgb"} if suffix == "tif" else {}
    assert np.array_equal(read_mask(saved(tmp_path / f"a.{suffix}", rgb, **options)).data, IDS)
    rgba = np.dstack([ONE * np.uint8(255)] * 3 + [np.full(ONE.shape, 255, np.uint8)])
    if suffix == "tif":
        options["extrasamples"] = ["unassalpha"]
    mask = read_mask(saved(tmp_path / f"b.{suffix}", rgba, **options))
    assert np.array_equal(mask.data, ONE)


def test_one_colour_on_black_or_on_nothing(tmp_path):
    red = np.zeros((11, 13, 3), np.uint8)
    red[ONE] = (200, 30, 10)
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", red)).data, ONE)
    stroke = np.dstack([np.full((11, 13, 3), (200, 30, 10), np.uint8), ONE * np.uint8(255)])
    assert np.array_equal(read_mask(saved(tmp_path / "b.png", stroke)).data, ONE)
    ink = np.dstack([np.zeros((11, 13, 3), np.uint8), ONE * np.uint8(255)])
    assert np.array_equal(read_mask(saved(tmp_path / "c.png", ink)).data, ONE)


def test_several_colours_are_refused_and_counted(tmp_path):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)], np.uint8)
    with pytest.raises(InputError, match=r"a\.png is a colour mask with 4 colours besides black"):
        read_mask(saved(tmp_path / "a.png", colours[IDS]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_masks(tmp_path, dtype):
    whole = read_mask(saved(tmp_path / "a.tif", IDS.astype(dtype)))
    assert whole.data.dtype == np.uint8
    assert np.array_equal(whole.data, IDS)
    soft = RNG.random((11, 13)).astype(dtype)
    mask = read_mask(saved(tmp_path / "b.tif", soft))
    assert np.array_equal(mask.data, soft >= 0.5)
    assert mask.note == "fractions cut at 0.5"
    with pytest.raises(InputError, match="so it is not a mask"):
        read_mask(saved(tmp_path / "c.tif", soft * 7))
    soft[0, 0] = np.nan
    with pytest.raises(InputError, match="not numbers"):
        read_mask(saved(tmp_path / "d.tif", soft))


def test_negative_and_too_many_ids(tmp_path):
    with pytest.raises(InputError, match=r"negative values \(down to -1\)"):
        read_mask(saved(tmp_path / "a.tif", IDS.astype(np.int16) - 1))
    with pytest.raises(InputError, match="ids up to 70000; expected at most 65535"):
        read_mask(saved(tmp_path / "b.tif", IDS.astype(np.int32) * 17500))


def test_stack_and_volume_masks(tmp_path):
    stack = RNG.integers(0, 4, (7, 11, 13), np.uint8)
    assert np.array_equal(read_mask(saved(tmp_path / "a.tif", stack)).view, stack)
    nib.save(nib.Nifti1Image(stack * np.uint8(85), np.eye(4)), tmp_path / "a.nii.gz")
    mask = read_mask(tmp_path / "a.nii.gz")
    assert np.array_equal(mask.data, stack * np.uint8(85))
    four = nib.Nifti1Image(np.stack([stack, stack * 0], -1), np.eye(4))
    nib.save(four, tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="2 volumes"):
        read_mask(tmp_path / "b.nii.gz")
    assert np.array_equal(read_mask(tmp_path / "b.nii.gz", volume=0).data, stack)


def test_real_masks(shared_data):
    for folder, expected in (
        ("dsb2018/labels", None),
        ("isic2017/masks", {0, 1}),
        ("oxford_pets/annotations/trimaps", {1, 2, 3}),
    ):
        files = [p for p in sorted((shared_data / folder).iterdir()) if p.name[0] != "."][:12]
        assert files
        for path in files:
            found = set(np.unique(read_mask(path).data).tolist())
            assert found <= expected if expected else found > {0}
