"""``--data``: a recognised data set for training and evaluation from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_attnseg.cards import read_card
from napari_attnseg.cli import app
from napari_attnseg.errors import InputError


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    home = tmp_path / "pets"
    for folder in ("images", "annotations/trimaps"):
        (home / folder).mkdir(parents=True)
    for n in range(10):
        trimap = np.full((33, 29), 2, np.uint8)
        trimap[8:22, 6:20] = 3
        trimap[10:20, 8:18] = 1
        pixels = rng.integers(0, 60, (33, 29, 3)) + np.where(trimap == 1, 180, 0)[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"images/Pug_{n}.png")
        Image.fromarray(trimap).save(home / f"annotations/trimaps/Pug_{n}.png")
    return home


def run(*arguments: object, stderr: bool = False) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stderr if stderr else done.stdout


def test_train_and_evaluate_by_the_layout(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    small = ("--epochs", 1, "--batch", 4, "--set", "crop=32", "--option", "width=0.125")
    given = ("--data", pets, "--labels", "border-ignored", "--device", "cpu")
    said = run("train", *given, "--out", out, *small, stderr=True)
    assert "sizes: 33 x 29" in said
    assert "background:" in said
    assert "of all pixels unknown" in said
    card = read_card(out)
    assert card.class_names == ("background", "pet")
    assert card.provenance["data"]["layout"] == "oxford-pets"
    found = json.loads(run("evaluate", out, *given, "--json", "--per-image"))
    assert found["n"] == 2
    assert [row["name"] for row in found["per_image"]] == ["Pug_8.png", "Pug_9.png"]
    whole = json.loads(run("evaluate", out, "--data", pets, "--device", "cpu", "--json"))
    assert whole["pooled"]["accuracy"] != found["pooled"]["accuracy"]  # the border counts


def test_one_way_or_the_other(pets: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    out = tmp_path / "m.safetensors"
    images = ("--images", pets / "images")
    for arguments, words in (
        (("train", "--out", out, *images), "expected --images and --masks, or --data"),
        (("evaluate", tiny_checkpoint), "expected --images and --masks, or --data"),
        (("train", "--out", out, "--data", pets, *images), "expected --data alone"),
        (
            ("evaluate", tiny_checkpoint, *images, "--masks", pets, "--labels", "id=1"),
            "got --labels without --data",
        ),
        (("train", "--out", out, "--data", tmp_path / "no"), "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            run(*arguments)
    assert not out.exists()
