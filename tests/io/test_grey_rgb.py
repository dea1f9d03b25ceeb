"""Grey pictures saved with three or four channels are grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.io.image import read_image

GREY = np.random.default_rng(5).integers(0, 250, (7, 11), np.uint8)


def write(path: Path, data: np.ndarray) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, data, photometric="rgb")
    else:
        Image.fromarray(data).save(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "alpha"),
    [(".png", False), (".png", True), (".tif", False), (".tif", True), (".bmp", False)],
)
def test_equal_channels_are_one(tmp_path: Path, suffix: str, alpha: bool) -> None:
    data = np.stack([GREY] * 3 + [np.full_like(GREY, 255)] * alpha, -1)
    found = read_image(write(tmp_path / f"grey{suffix}", data))
    assert not found.rgb
    assert found.note == ""
    assert found.view.shape == (1, 7, 11)
    np.testing.assert_array_equal(found.view[0], GREY)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_tinted_pixel_keeps_the_colour(tmp_path: Path, suffix: str, channel: int) -> None:
    data = np.stack([GREY] * 3, -1)
    data[6, 10, channel] += 1
    found = read_image(write(tmp_path / f"colour{suffix}", data))
    assert found.rgb
    np.testing.assert_array_equal(found.view[0], data)


def test_sixteen_bit_and_resolution_survive(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    data = np.stack([GREY.astype(np.uint16) * 257] * 3, -1)
    tifffile.imwrite(
        path, data, photometric="rgb", resolution=(50, 25), resolutionunit="CENTIMETER"
    )
    found = read_image(path)
    assert (found.rgb, found.data.dtype) == (False, np.uint16)
    assert found.resolution is not None
    assert (found.resolution.x, found.resolution.y) == (50, 25)


def test_no_luminance_is_spoken_of(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A model of one channel sees the very same numbers as from the grey file."""
    from napari_attnseg.engine.session import Session

    session = Session(tiny_checkpoint, "cpu")
    answers = []
    for name, data in (("rgb", np.stack([GREY] * 3, -1)), ("grey", GREY)):
        session.set_image(write(tmp_path / f"{name}.png", data))
        assert session.notes == ()
        answers.append(session.predict().logits)
    np.testing.assert_array_equal(*answers)
