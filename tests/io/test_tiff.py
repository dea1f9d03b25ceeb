"""TIFF: stacks, colour, odd samples, resolutions, compressions and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image
from napari_attnseg.io.volume import Resolution

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (11, 13), np.uint8)


def saved(path: Path, data: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, data, **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}],
)
def test_grey_of_any_type(tmp_path, dtype, options):
    data = RNG.integers(0, 120, (11, 13)).astype(dtype)
    path = saved(tmp_path / "a.tif", data, **options)
    volume = read_image(path)
    assert volume.data.dtype == np.dtype(dtype)
    assert np.array_equal(volume.data, data)
    assert image_size(path) == volume.shape == (1, 11, 13)


@pytest.mark.parametrize(
    "options", [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"compression": "zlib"}]
)
def test_stack_is_a_volume(tmp_path, options):
    data = RNG.integers(0, 999, (7, 11, 13), np.uint16)
    path = saved(tmp_path / "a.tif", data, **options)
    volume = read_image(path)
    assert image_size(path) == volume.shape == (7, 11, 13)
    assert np.array_equal(volume.view, data)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_either_way_it_is_stored(tmp_path, planar):
    data = RNG.integers(0, 256, (11, 13, 3), np.uint8)
    stored = data if planar == "contig" else np.moveaxis(data, -1, 0)
    path = saved(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    volume = read_image(path)
    assert volume.rgb
    assert np.array_equal(volume.data, data)
    assert image_size(path) == (1, 11, 13)


def test_colour_stack_and_alpha(tmp_path):
    data = RNG.integers(0, 256, (5, 11, 13, 3), np.uint8)
    volume = read_image(saved(tmp_path / "a.tif", data, photometric="rgb"))
    assert np.array_equal(volume.view, data)
    rgba = np.concatenate([data[0], data[0, ..., :1]], -1)
    volume = read_image(saved(tmp_path / "b.tif", rgba, photometric="rgb", extrasamples=[2]))
    assert np.array_equal(volume.data, data[0])
    assert volume.note == "the alpha channel was left out"


def test_one_bit_and_white_is_zero(tmp_path):
    bits = GREY > 99
    volume = read_image(saved(tmp_path / "a.tif", bits, photometric="minisblack"))
    assert np.array_equal(volume.data, bits * np.uint8(255))
    volume = read_image(saved(tmp_path / "b.tif", GREY, photometric="miniswhite"))
    assert np.array_equal(volume.data, 255 - GREY)


def test_palette_is_looked_up(tmp_path):
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = saved(tmp_path / "a.tif", GREY, photometric="palette", colormap=table)
    volume = read_image(path)
    assert volume.rgb
    assert np.array_equal(volume.data, (table.T >> 8).astype(np.uint8)[GREY])


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
def test_compressions_of_other_programs(tmp_path, compression):
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 2
    Image.fromarray(smooth).save(tmp_path / "a.tif", compression=compression)
    got = read_image(tmp_path / "a.tif").data
    assert np.abs(got.astype(int) - smooth).max() <= (8 if compression == "jpeg" else 0)


def test_pages_of_fax_machines(tmp_path):
    bits = [Image.fromarray(v < GREY) for v in (50, 150)]
    bits[0].save(tmp_path / "a.tif", compression="group4", save_all=True, append_images=bits[1:])
    volume = read_image(tmp_path / "a.tif")
    assert volume.shape == (2, 11, 13)
    assert np.array_equal(volume.data[1], (GREY > 150) * np.uint8(255))


@pytest.mark.parametrize(
    ("options", "resolution", "pixel_mm"),
    [
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, Resolution(300, 300, "INCH"), None),
        (
            {"resolution": (100, 50), "resolutionunit": "CENTIMETER"},
            Resolution(100, 50, "CENTIMETER"),
            (1, 0.2, 0.1),
        ),
        (
            {"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}},
            Resolution(4, 2, "NONE"),
            (1, 5e-4, 2.5e-4),
        ),
        (
            {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}},
            Resolution(1, 1, "NONE"),
            (1, 5e-4, 2.5e-4),
        ),
        ({}, Resolution(1, 1, "NONE"), None),
    ],
)
def test_pixel_size_is_read_where_it_means_length(tmp_path, options, resolution, pixel_mm):
    volume = read_image(saved(tmp_path / "a.tif", GREY, **options))
    assert volume.resolution == resolution
    assert volume.spacing_mm == pytest.approx(pixel_mm or ())
    assert volume.display_scale == pytest.approx(pixel_mm or (1, 1, 1))


def test_imagej_spacing_of_slices(tmp_path):
    options = {
        "imagej": True,
        "resolution": (2, 2),
        "metadata": {"unit": "um", "spacing": 3.0, "axes": "ZYX"},
    }
    volume = read_image(saved(tmp_path / "a.tif", RNG.random((7, 11, 13), np.float32), **options))
    assert volume.spacing_mm == pytest.approx((3e-3, 5e-4, 5e-4))


def test_what_cannot_be_guessed_is_refused(tmp_path):
    data = RNG.integers(0, 9, (4, 2, 11, 13), np.uint8)
    saved(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(InputError, match="has 2 separate channels"):
        read_image(tmp_path / "a.tif")
    saved(tmp_path / "b.tif", data, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="save one time point"):
        read_image(tmp_path / "b.tif")
    saved(
        tmp_path / "c.tif",
        RNG.integers(0, 9, (11, 13, 7), np.uint8),
        planarconfig="contig",
        photometric="minisblack",
        metadata={"axes": "YXS"},
    )
    with pytest.raises(InputError, match="has 7 channels"):
        read_image(tmp_path / "c.tif")
    saved(tmp_path / "d.tif", data[:, 0], imagej=True)  # told nothing, it says channels
    with pytest.raises(InputError, match=r"4 separate channels.* slices say so in ImageJ"):
        read_image(tmp_path / "d.tif")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_numbers(tmp_path, bad):
    data = GREY.astype(np.float32)
    data[2, 3] = bad
    with pytest.raises(InputError, match="1 of 143 values that are not numbers"):
        read_image(saved(tmp_path / "a.tif", data))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}])
@pytest.mark.parametrize("shape", [(64, 64), (9, 32, 32)])
def test_cut_anywhere_says_so(tmp_path, options, shape):
    whole = saved(tmp_path / "a.tif", RNG.integers(0, 255, shape, np.uint8), **options).read_bytes()
    for part in (0, 1, 5, 12, 200, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 1100):
        (tmp_path / "b.tif").write_bytes(whole[:part])
        with pytest.raises(InputError, match=r"truncated|damaged|is empty|no pixels|claims"):
            read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_any_byte_may_be_wrong(tmp_path, compression, capfd):
    whole = saved(
        tmp_path / "a.tif", RNG.integers(0, 255, (40, 40), np.uint8), compression=compression
    ).read_bytes()
    places = [*range(0, 300), *RNG.integers(300, len(whole), 60)]
    said: list[str] = []
    for place in places:
        raw = bytearray(whole)
        raw[place] ^= int(RNG.integers(1, 256))
        (tmp_path / "b.tif").write_bytes(raw)
        try:
            read_image(tmp_path / "b.tif")
        except InputError as error:
            said.append(str(error))
    assert said
    assert not [text for text in said if "\n" in text]
    assert capfd.readouterr() == ("", "")


def test_absurd_claims_are_refused_before_memory_is_taken(tmp_path):
    path = saved(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            entry = file.pages[0].tags[tag]
            entry.overwrite(60000)
    with pytest.raises(InputError, match=r"claims|damaged"):
        read_image(path)


@pytest.mark.parametrize(
    ("unit", "mm"),
    [
        ("µm", 1e-3),
        ("μm", 1e-3),
        ("mm", 1.0),
        ("nm", 1e-6),
        ("Å", 1e-7),
        ("m", 1e3),
        ("cm", 10.0),
        ("in", 25.4),
        ("pixel", None),
        ("reference frame", None),
    ],
)
def test_ome_units_are_lengths_of_their_own(tmp_path, unit, mm):
    data = np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, 5, 7)
    sizes = {f"PhysicalSize{a}": v for a, v in zip("ZYX", (3.0, 0.5, 0.25), strict=True)}
    units = {f"PhysicalSize{a}Unit": unit for a in "ZYX"}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    volume = read_image(path)
    np.testing.assert_array_equal(volume.view, data)
    expected = () if mm is None else (3 * mm, 0.5 * mm, 0.25 * mm)
    assert volume.spacing_mm == pytest.approx(expected)


def test_ome_sizes_are_those_of_the_first_image_in_any_spelling():
    from napari_attnseg.io.tiff import _ome_mm

    first = "<OME:Pixels ID='P' PhysicalSizeX = '2' PhysicalSizeY='4' PhysicalSizeXUnit='&#181;m'/>"
    second = '<Pixels PhysicalSizeX="9" PhysicalSizeY="9" PhysicalSizeZ="9"/>'
    assert _ome_mm(f"<OME>{first}{second}</OME>") == pytest.approx((1.0, 4e-3, 2e-3))
    for broken in ("nan", "-1", "0", "x"):
        assert _ome_mm(f'<Pixels PhysicalSizeX="{broken}" PhysicalSizeY="1"/>') is None


def test_imagej_units_of_rows_and_slices_may_differ(tmp_path):
    data = np.zeros((3, 5, 7), np.uint16)
    metadata = {"axes": "ZYX", "unit": "micron", "zunit": "mm", "yunit": "nm", "spacing": -0.5}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, imagej=True, resolution=(4, 2), metadata=metadata)
    assert read_image(path).spacing_mm == pytest.approx((0.5, 0.5e-6, 0.25e-3))


def test_a_mask_of_ours_keeps_the_distance_of_its_slices(tmp_path):
    from napari_attnseg.io.export import write_mask
    from napari_attnseg.io.volume import Volume

    source = Volume(np.zeros((3, 5, 7), np.uint8), pixel_mm=(3.0, 0.5, 0.25))
    write_mask(tmp_path / "m.tif", np.ones((3, 5, 7), np.uint8), source)
    assert read_image(tmp_path / "m.tif").spacing_mm == (3.0, 0.5, 0.25)
