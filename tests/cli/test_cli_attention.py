"""Attention placed from the command line: listed, told about, trained, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from skimage.io import imsave

from napari_attnseg.attention import list_attentions

SMALL = ["--option", "width=0.1", "--option", "levels=2", "--epochs", "1", "--set", "crop=32"]


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(3)
    for i in range(3):
        image = rng.integers(0, 60, (33, 41)).astype(np.uint8)
        mask = np.zeros(image.shape, np.uint8)
        mask[8:20, 9:22] = 255
        imsave(images / f"cell{i}.png", image + mask // 2, check_contrast=False)
        imsave(masks / f"cell{i}.png", mask, check_contrast=False)
    return ["--images", images, "--masks", masks]


def test_every_attention_is_listed_and_told_about() -> None:
    listed = run("attentions")
    assert listed.exit_code == 0, listed.output
    known = json.loads(run("attentions", "--json").stdout)
    assert [info["name"] for info in known] == list_attentions()
    for info in known:
        assert info["name"] in listed.stdout
        told = run("attentions", info["name"]).stdout
        assert info["paper"] in told
        assert all(f"{a['name']}=" in told for a in info["arguments"])


def test_placed_attention_is_trained_and_kept_in_the_card(folders, tmp_path) -> None:
    out = tmp_path / "m.safetensors"
    words = ["--attention", "skip[1:]=attention_gate:inner=3", "--attention", "bottleneck=joint"]
    done = run("train", *folders, "--out", out, *SMALL, *words)
    assert done.exit_code == 0, done.output
    card = json.loads(run("info", out, "--json").stdout)
    assert card["spec"]["name"] == "placed_unet"
    placed = card["spec"]["options"]["attention"]
    assert placed == "skip[1:]=attention_gate:inner=3; bottleneck=joint"
    predicted = run("predict", out, folders[1], "--out", tmp_path / "masks_out")
    assert predicted.exit_code == 0, predicted.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--attention", "bottleneck=attention_gate"], "at bottleneck: attention_gate cannot"),
        (["--attention", "skip[0]=joint:struct=2"], "did you mean 'structure'"),
        (["--attention", "skip=nothing"], "got attention 'nothing'"),
        (["--attention", "skip"], "PLACE=NAME"),
        (["--attention", "skip=joint", "--model", "unet"], "attention is placed in placed_unet"),
    ],
)
def test_what_cannot_be_placed_is_refused(folders, tmp_path, words, told) -> None:
    done = run("train", *folders, "--out", tmp_path / "m.safetensors", *SMALL, *words)
    assert done.exit_code != 0
    assert told in str(done.exception)
    assert not (tmp_path / "m.safetensors").exists()


def test_an_unknown_attention_is_answered_with_the_known() -> None:
    assert "expected one of" in str(run("attentions", "nothing").exception)
