"""Pictures of a bake-off as layers: cells stay together, another image reuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.viewer.bakeoff_grid import BOTH, BakeOffGrid

pytestmark = pytest.mark.gui


def pictures(folder: Path, seed: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Two contestants, of which one has a map of 5 x 7 cells."""
    rng = np.random.default_rng(seed)
    height, width = shape
    files = {
        "image": rng.random(shape),
        "truth": rng.integers(0, 2, shape).astype(np.uint8),
        "one": rng.integers(0, 2, shape).astype(np.uint8),
        "two": rng.integers(0, 2, shape).astype(np.uint8),
        "map": rng.random((5, 7)).astype(np.float32),
    }
    paths = {}
    for name, values in files.items():
        paths[name] = str(folder / f"{name}_{seed}.npy")
        np.save(paths[name], values)
    scale = [height / 5, width / 7]
    place = {"map_scale": scale, "map_offset": [(s - 1) / 2 for s in scale]}
    return {
        "image": {"file": paths["image"], "name": f"{seed}.png", "rgb": False, "scale": [2.0, 3.0]},
        "truth": paths["truth"],
        "cells": [
            {"key": "plain", "mask": paths["one"], "dice": None},
            {"key": "k", "mask": paths["two"], "dice": 0.5, "map": paths["map"], "map_name": "m"}
            | place,
        ],
    }


def corners(viewer: ViewerModel, name: str) -> list[Any]:
    """World positions of a layer's outer corners, half a pixel beyond the outermost centres."""
    layer = viewer.layers[name]
    last = np.asarray(layer.data.shape) - 0.5
    return [layer.data_to_world((-0.5, -0.5)), layer.data_to_world(last)]


def test_cells_hold_image_map_and_mask_and_maps_lie_on_the_image(tmp_path: Path) -> None:
    viewer = ViewerModel()
    own = viewer.add_image(np.zeros((3, 9, 9)), name="mine")
    hidden = viewer.add_image(np.zeros((9, 9)), name="hidden", visible=False)
    viewer.canvas.grid.stride = 2
    grid = BakeOffGrid(viewer)
    grid.show(pictures(tmp_path, 1, (35, 41)), {"plain": "plain U-Net", "k": "CBAM"})
    grid.choose(BOTH)
    cells = [group for _, group in viewer.canvas.grid.iter_viewboxes(viewer.layers) if group]
    shown = [[viewer.layers[i] for i in sorted(group)] for group in cells]
    assert [[layer.name for layer in group if layer.visible] for group in shown] == [
        ["truth", "truth: mask"],
        ["plain U-Net", "plain U-Net: mask"],
        ["CBAM, Dice 0.50", "CBAM: map (m)", "CBAM: mask"],
    ]
    np.testing.assert_allclose(corners(viewer, "CBAM: map (m)"), [[-1, -1.5], [69, 121.5]])
    np.testing.assert_allclose(corners(viewer, "CBAM: mask"), [[-1, -1.5], [69, 121.5]])
    before = list(viewer.layers)
    second = pictures(tmp_path, 2, (29, 31))
    grid.show(second, {"plain": "plain U-Net", "k": "CBAM"})
    assert list(viewer.layers) == before  # new pixels, the same layers
    np.testing.assert_array_equal(
        viewer.layers["CBAM: mask"].data, np.load(second["cells"][1]["mask"])
    )
    np.testing.assert_allclose(corners(viewer, "CBAM: map (m)"), [[-1, -1.5], [57, 91.5]])
    viewer.layers.remove("CBAM: mask")  # by hand: the next image brings all layers anew
    grid.show(second, {"plain": "plain U-Net", "k": "CBAM"})
    assert "CBAM: mask" in viewer.layers
    assert len(viewer.layers) == 11
    grid.leave()
    assert list(viewer.layers) == [own, hidden]
    assert (own.visible, hidden.visible) == (True, False)
    assert (viewer.canvas.grid.enabled, viewer.canvas.grid.stride) == (False, 2)
    assert not grid.shown


def test_many_contestants_are_four_layers_and_leave_nothing(tmp_path: Path) -> None:
    viewer = ViewerModel()
    own = viewer.add_image(np.zeros((9, 9)), name="mine")
    grid = BakeOffGrid(viewer)
    found = pictures(tmp_path, 1, (35, 41))
    found["cells"] = [{**found["cells"][1], "key": f"k{i}"} for i in range(37)]
    names = {f"k{i}": f"C{i}" for i in range(37)}
    grid.show(found, names)
    assert grid.mosaic
    assert len(viewer.layers) == 5
    assert not viewer.canvas.grid.enabled
    image, maps, masks, words, _ = viewer.layers
    assert words.features["name"].iloc[1] == "C0 0.50"
    assert (maps.visible, masks.visible) == (False, True)
    grid.choose(BOTH)
    assert maps.visible
    before = masks.data
    again = pictures(tmp_path, 2, (35, 41))
    again["cells"] = [{**again["cells"][1], "key": f"k{i}", "dice": 0.25} for i in range(37)]
    grid.show(again, names)
    assert list(viewer.layers)[:4] == [image, maps, masks, words]  # new pixels, no new layers
    assert (masks.data != before).any()
    assert words.features["name"].iloc[1] == "C0 0.25"
    grid.leave()
    assert list(viewer.layers) == [own]
    assert own.visible
