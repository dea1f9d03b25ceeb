"""Any shipped model can be refined, frozen or learning on: trained, described, predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.io import imread, imsave
from typer.testing import CliRunner

from napari_attnseg.cards import read_card, shipped_checkpoints
from napari_attnseg.cli import app
from napari_attnseg.models.checkpoint import load_checkpoint

COARSE = {
    "nuclei_pam_unet": "cspn",
    "nuclei_dense_unet_ja": "dyspn",
    "ct_organs_smooth_unet": "cspn",
}
SMALL = ["width=0.125", "levels=1", "iterations=2"]


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == 0, found.output + str(found.exception)
    return found.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 32 x 40 and masks of ids 0 to 3."""
    rng, root = np.random.default_rng(4), tmp_path_factory.mktemp("data")
    for part in ("images", "masks", "nuclei"):
        (root / part).mkdir()
    for i in range(4):
        mask = np.zeros((32, 40), np.uint8)
        mask[4:14, 4 + i : 18], mask[4:14, 20:30], mask[18:28, 8:30] = 1, 2, 3
        image = (60 * mask + rng.integers(0, 40, mask.shape)).astype(np.uint8)
        imsave(root / f"images/{i}.png", image, check_contrast=False)
        imsave(root / f"masks/{i}.png", mask, check_contrast=False)
        imsave(root / f"nuclei/{i}.png", (mask > 0) * np.uint8(255), check_contrast=False)
    return root


@pytest.mark.parametrize(
    ("coarse", "fine_tune"), [*((name, False) for name in COARSE), ("nuclei_dense_unet_ja", True)]
)
def test_any_model_can_be_refined(coarse: str, fine_tune: bool, folders, tmp_path) -> None:
    card, out = read_card(shipped_checkpoints()[coarse]), tmp_path / "mine.safetensors"
    masks = folders / ("masks" if len(card.class_names) > 2 else "nuclei")
    data = ["--images", folders / "images", "--masks", masks]
    options = [word for value in SMALL for word in ("--option", value)]
    quick = ["--epochs", 1, "--batch", 4, "--set", "crop=32", "--device", "cpu"]
    extra = ["--fine-tune"] if fine_tune else []
    run(
        "train", *data, "--refine", COARSE[coarse], "--coarse", coarse, "--out", out,
        *options, *quick, *extra,
    )  # fmt: skip
    found = read_card(out)
    assert found.class_names == card.class_names
    assert found.spec["options"]["frozen"] is not fine_tune
    refined, alone = load_checkpoint(out).model, load_checkpoint(coarse).model
    before = alone.state_dict()
    moved = [k for k, v in refined.coarse.state_dict().items() if not torch.equal(v, before[k])]
    assert bool(moved) is fine_tune
    image = folders / "images" / "0.png"
    words = ["--device", "cpu", "--out"]
    run("predict", out, image, "--iterations", 0, *words, tmp_path / "none")
    run("predict", out, image, "--save-steps", *words, tmp_path / "all")
    none = imread(tmp_path / "none" / "0_mask.png")
    assert np.array_equal(imread(tmp_path / "all" / "0_steps" / "step_00.png"), none)
    assert set(np.unique(none)) <= set(range(len(card.class_names)))
    if not fine_tune:
        run("predict", coarse, image, *words, tmp_path / "coarse")
        assert np.array_equal(imread(tmp_path / "coarse" / "0_mask.png"), none)
    told = json.loads(run("evaluate", out, *data, "--device", "cpu", "--json"))
    assert told["n"] == 4
