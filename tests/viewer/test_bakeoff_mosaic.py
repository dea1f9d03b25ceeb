"""Many contestants as one picture: every cell in its place, maps on the pixels they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.viewer.bakeoff_mosaic import LEAST, mosaic_of


def cells_of(count: int, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    for i in range(count):
        mask = rng.integers(0, 3, (7, 11)).astype(np.uint8)
        cells.append({"name": f"contestant {i}", "mask_data": mask, "dice": i / 10})
    np.save(folder / "map.npy", np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]], np.float32))
    cells[3] |= {"map": str(folder / "map.npy"), "map_scale": (4, 4), "map_offset": (1.5, 1.5)}
    return cells


def corners(found: Any) -> list[tuple[int, int]]:
    """Upper left of every cell: where the image's brightest pixel repeats."""
    return [(int(y), int(x)) for y, x in np.argwhere(found.image == 255)]


def test_every_cell_lies_whole_in_reading_order(tmp_path: Path) -> None:
    pixels = np.arange(1, 78, dtype=np.uint8).reshape(7, 11)
    pixels[0, 0] = 255
    cells = cells_of(9, tmp_path)
    found = mosaic_of(pixels, cells)
    at = corners(found)
    assert len(at) == 9
    assert found.thinned == 1
    covered = np.zeros(found.masks.shape, bool)
    for (y, x), cell, place in zip(at, cells, found.places, strict=True):
        np.testing.assert_array_equal(found.image[y : y + 7, x : x + 11], pixels)
        np.testing.assert_array_equal(found.masks[y : y + 7, x : x + 11], cell["mask_data"])
        assert place[0] < y
        assert place[1] == x
        covered[y : y + 7, x : x + 11] = True
    assert covered.sum() == 9 * 77  # none lies on another
    assert not found.masks[~covered].any()
    assert not found.maps[~covered].any()


def test_a_map_covers_the_pixels_it_stands_for_and_no_map_stays_clear(tmp_path: Path) -> None:
    pixels = np.zeros((7, 11), np.uint8)
    pixels[0, 0] = 255
    found = mosaic_of(pixels, cells_of(9, tmp_path))
    shown = [found.maps[y : y + 7, x : x + 11] for y, x in corners(found)]
    assert [bool(m.any()) for m in shown] == [i == 3 for i in range(9)]
    here = shown[3]
    assert here[0, 0] == pytest.approx(LEAST)
    assert here[6, 10] == pytest.approx(1)
    value = LEAST + (1 - LEAST) * (5 - 1) / (7 - 1)  # row 1, column 1 of the map: pixels 4 to 7
    np.testing.assert_allclose(here[4:7, 4:8], value, rtol=1e-6)
    assert len(np.unique(here)) == 6


def test_large_images_are_thinned_and_names_shortened(tmp_path: Path) -> None:
    pixels = np.zeros((900, 1300, 3), np.uint8)
    mask = np.zeros((900, 1300), np.uint8)
    cells = [{"name": "Squeeze-and-excitation", "mask_data": mask, "dice": 0.5}] * 38
    found = mosaic_of(pixels, cells)
    assert found.thinned > 1
    assert max(found.image.shape[:2]) <= 4096
    assert found.image.shape[2] == 3
    assert set(found.names) == {"Squeeze-and-… 0.50"}
