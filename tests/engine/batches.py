"""Small batches for tests: images on disk, and what the masks and the table say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from napari_attnseg.cards import read_card
from napari_attnseg.engine.batch import Recipe, Row, Task, tasks_of
from napari_attnseg.engine.batch_make import Maker
from napari_attnseg.settings import Tuning

SPACING = (0.7, 1.3, 2.5)


def recipe(model: Path, **more: Any) -> Recipe:
    """The checkpoint's own values on the processor."""
    card = read_card(model)
    tuning: Tuning = more.pop("tuning", card.tuning)
    return Recipe(str(model), tuning, card.digest, device="cpu", **more)


def make(maker: Maker, task: Task, **asked: Any) -> Row:
    """As a new batch would: what stands there stood there before."""
    before, maker.recipe = maker.recipe, replace(maker.recipe, **asked)
    try:
        return maker.make(tasks_of({task.image: task.mask})[0])
    finally:
        maker.recipe = before


def pictures(folder: Path, count: int, start: int = 0) -> list[Path]:
    """Noise with a bright rectangle, each of another odd size."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 60, (31 + i % 5, 43 - i % 7)).astype(np.uint8)
        image[8:20, 9:22] += 150
        made.append(folder / f"cell{i:02d}.png")
        Image.fromarray(image).save(made[-1])
    return made


def scan(path: Path, slices: int = 5) -> Path:
    """A volume of 11 x 13 x ``slices`` voxels of ``SPACING`` mm."""
    values = np.random.default_rng(7).normal(0, 99, (11, 13, slices)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([*SPACING, 1.0])), path)
    return path


def lines(out: Path) -> dict[str, dict[str, str]]:
    """``predictions.csv`` by mask."""
    with (out / "predictions.csv").open(newline="") as file:
        return {line["mask"]: line for line in csv.DictReader(file)}


def told(mask: Path) -> dict[str, Any]:
    """The provenance in a PNG mask."""
    with Image.open(mask) as file:
        found: dict[str, Any] = json.loads(file.text["napari-attnseg"])["provenance"]
        return found
