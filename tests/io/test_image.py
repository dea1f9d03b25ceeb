"""PNG, JPEG, GIF and BMP as images: every mode, wrong names, damage."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image, require_same_size
from napari_attnseg.io.volume import Volume

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (11, 13), np.uint8)
COLOUR = RNG.integers(0, 256, (11, 13, 3), np.uint8)


def saved(path: Path, data: np.ndarray | Image.Image, **options: object) -> Path:
    image = data if isinstance(data, Image.Image) else Image.fromarray(data)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif"])
def test_grey_comes_back_as_it_is(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", GREY)
    volume = read_image(path)
    assert not volume.rgb
    assert np.array_equal(volume.data, GREY)
    assert volume.note == ""
    assert volume.geometry is None
    assert image_size(path) == volume.shape == (1, 11, 13)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_colour_comes_back_as_it_is(tmp_path, suffix):
    volume = read_image(saved(tmp_path / f"a.{suffix}", COLOUR))
    assert volume.rgb
    assert np.array_equal(volume.data, COLOUR)
    assert volume.view.shape == (1, 11, 13, 3)


def test_equal_channels_are_grey(tmp_path):
    volume = read_image(saved(tmp_path / "a.png", np.stack([GREY] * 3, -1)))
    assert not volume.rgb
    assert np.array_equal(volume.data, GREY)


def test_opaque_alpha_is_left_out_in_silence_and_real_alpha_with_a_note(tmp_path):
    opaque = np.dstack([COLOUR, np.full((11, 13), 255, np.uint8)])
    volume = read_image(saved(tmp_path / "a.png", opaque))
    assert np.array_equal(volume.data, COLOUR)
    assert volume.note == ""
    opaque[3, 4, 3] = 200
    volume = read_image(saved(tmp_path / "b.png", opaque))
    assert np.array_equal(volume.data, COLOUR)
    assert volume.note == "the alpha channel was left out"
    volume = read_image(saved(tmp_path / "c.png", np.dstack([GREY, GREY])))
    assert np.array_equal(volume.data, GREY)


def test_sixteen_bits_stay_sixteen(tmp_path):
    data = RNG.integers(0, 65536, (11, 13), np.uint16)
    volume = read_image(saved(tmp_path / "a.png", data))
    assert volume.data.dtype == np.uint16
    assert np.array_equal(volume.data, data)


def test_sixteen_bit_colour_says_that_it_loses_bits(tmp_path):
    rows = b"".join(b"\0" + bytes([17 * r, 3] * 3 * 5) for r in range(4))
    (tmp_path / "a.png").write_bytes(png(5, 4, 16, 2, rows))
    volume = read_image(tmp_path / "a.png")
    assert volume.data.dtype == np.uint8
    assert volume.note == "16-bit colour is read with 8 bits"


def test_one_bit_is_black_and_white(tmp_path):
    data = GREY > 128
    volume = read_image(saved(tmp_path / "a.png", data))
    assert np.array_equal(volume.data, data * np.uint8(255))


def test_palette_is_looked_up(tmp_path):
    image = Image.fromarray(COLOUR).quantize(7)
    volume = read_image(saved(tmp_path / "a.png", image))
    assert np.array_equal(volume.data, np.array(image.convert("RGB")))
    assert volume.rgb


def test_jpeg_grey_colour_and_cmyk(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 2
    volume = read_image(saved(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(volume.data.astype(int) - smooth).max() < 8
    saved(tmp_path / "b.jpg", Image.fromarray(np.dstack([smooth, smooth[::-1], smooth])))
    assert read_image(tmp_path / "b.jpg").rgb
    cmyk = Image.fromarray(np.dstack([smooth, smooth[::-1], smooth])).convert("CMYK")
    volume = read_image(saved(tmp_path / "c.jpg", cmyk))
    assert volume.data.shape == (32, 40, 3)
    assert volume.note == "converted from CMYK to RGB"


def test_rotation_marks_are_not_applied_but_said(tmp_path):
    image = Image.fromarray(np.zeros((11, 13, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    volume = read_image(saved(tmp_path / "a.jpg", image, exif=exif))
    assert volume.shape == (1, 11, 13)
    assert "EXIF rotation is not applied" in volume.note


def test_a_gif_named_jpg_is_read_and_said(tmp_path):
    saved(tmp_path / "a.gif", GREY)
    (tmp_path / "a.gif").rename(tmp_path / "a.jpg")
    volume = read_image(tmp_path / "a.jpg")
    assert np.array_equal(volume.data, GREY)
    assert volume.note == "the file is a GIF although its name ends in .jpg"


def test_only_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((11, 13), v, np.uint8)) for v in (10, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    volume = read_image(tmp_path / "a.gif")
    assert (volume.data == 10).all()
    assert volume.note == "only the first of 3 frames is used"


def test_volume_of_a_picture_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", GREY)
    assert read_image(path, volume=0).shape == (1, 11, 13)
    with pytest.raises(InputError, match="not a 4D NIfTI"):
        read_image(path, volume=2)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {"quality": 90}),
        ("jpg", {"progressive": True}),
        ("gif", {}),
        ("bmp", {}),
    ],
)
def test_cut_anywhere_says_so(tmp_path, suffix, options):
    noise = RNG.integers(0, 256, (64, 64), np.uint8)
    whole = saved(tmp_path / f"a.{suffix}", noise, **options).read_bytes()
    for part in (0, 1, 5, 20, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4):
        path = tmp_path / f"b.{suffix}"
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match=r"b\..* (damaged|empty|claims)|is empty"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_any_byte_may_be_wrong(tmp_path, suffix):
    """A picture or one sentence, never another error; PNG notices every wrong byte of pixels."""
    noise = RNG.integers(0, 256, (40, 40), np.uint8)
    whole = saved(tmp_path / f"a.{suffix}", noise).read_bytes()
    path = tmp_path / f"b.{suffix}"
    said: list[str] = []
    places = RNG.integers(0, len(whole), 150)
    for place in places:
        raw = bytearray(whole)
        raw[place] ^= int(RNG.integers(1, 256))
        path.write_bytes(raw)
        try:
            read_image(path)
        except InputError as error:
            said.append(str(error))
    assert not [text for text in said if "\n" in text]
    if suffix == "png":
        assert len(said) > 140


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG file made by hand."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_zero_size_is_refused(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png(width, height, 8, 0, b"\0" * 6))
    with pytest.raises(InputError, match="damaged or cut short"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("side", "word"), [(12000, "claims"), (60000, "claims more pixels")])
def test_absurd_claims_are_refused_before_memory_is_taken(tmp_path, side, word):
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, b"\0" * 100))
    with pytest.raises(InputError, match=word):
        read_image(tmp_path / "a.png")


def test_text_named_png_is_told(tmp_path):
    buffer = io.StringIO("not a picture\n" * 50)
    (tmp_path / "a.png").write_text(buffer.getvalue())
    with pytest.raises(InputError, match="not what its name says"):
        read_image(tmp_path / "a.png")


def test_sizes_of_image_and_mask_must_agree():
    image, mask = Volume.from_array(np.zeros((40, 51))), Volume.from_array(np.zeros((41, 51)))
    require_same_size(image, image)
    with pytest.raises(InputError, match="mask mask is 41 x 51 but image image is 40 x 51; export"):
        require_same_size(image, mask)


def test_real_pictures_with_wrong_names(shared_data):
    images = sorted((shared_data / "oxford_pets" / "images").glob("[!.]*.jpg"))
    notes = {p.name: read_image(p).note for p in images[::10]}
    assert len(notes) >= 20
    odd = [p for p in images if p.read_bytes()[:3] != b"\xff\xd8\xff"]
    assert sorted(read_image(p).note[:18] for p in odd) == [
        "the file is a GIF ",
        "the file is a PNG ",
    ]
