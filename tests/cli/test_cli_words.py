"""What the command line prints for people: tables, notes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread, imsave
from typer.testing import CliRunner, Result

from napari_attnseg.cards import read_card
from napari_attnseg.cli import app
from napari_attnseg.cli._tables import aligned, figures_table
from napari_attnseg.errors import AttnSegError, CheckpointError

RNG = np.random.default_rng(3)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two images of odd sizes with bright squares, and their masks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for i, shape in enumerate([(33, 47), (40, 29)]):
        image = RNG.integers(0, 60, shape).astype(np.uint8)
        mask = np.zeros(shape, np.uint8)
        mask[8:20, 9:22] = 1
        imsave(images / f"cell{i}.png", image + 150 * mask, check_contrast=False)
        imsave(masks / f"cell{i}.png", mask * 255, check_contrast=False)
    return images, masks


@pytest.mark.parametrize("wrong", ["7", "-0.1", "1.5"])
def test_a_threshold_beyond_its_range_is_refused(
    wrong: str, tiny_checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    result = run(
        "predict", tiny_checkpoint, folders[0], "--out", tmp_path / "o", "--threshold", wrong
    )
    assert isinstance(result.exception, AttnSegError)
    assert "expected 0 to 1, or 2 for plain attention" in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_plain_attention_may_be_asked_for_and_masks_say_how_they_look(
    tiny_checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    dark = run("predict", tiny_checkpoint, folders[0], "--out", out, "--threshold", "2")
    assert dark.exit_code == 0, dark.output
    assert "ids 0 to 1)" in dark.output
    assert "look black in picture viewers" in dark.output
    seen = run("predict", tiny_checkpoint, folders[0], "--out", out, "--save", "preview")
    assert seen.exit_code == 0, seen.output
    assert "look black" not in seen.output
    mask, preview = imread(out / "cell1_mask.png"), imread(out / "cell1_preview.png")
    assert np.array_equal(preview, mask * (255 // max(1, mask.max())))
    again = run("predict", tiny_checkpoint, out, "--out", tmp_path / "p")
    assert "no image found" in str(again.exception), "neither masks nor previews are images"


def test_evaluate_prints_a_table_and_json_stays_json(
    tiny_checkpoint: Path, folders: tuple[Path, Path]
) -> None:
    wish = ("evaluate", tiny_checkpoint, "--images", folders[0], "--masks", folders[1])
    data = json.loads(run(*wish, "--json").stdout)
    text = run(*wish, "--per-image").stdout
    assert "{" not in text
    lines = text.splitlines()
    assert lines[0].split() == ["mean", "of", "images", "all", "pixels"]
    dice = next(line.split() for line in lines if line.startswith("dice"))
    assert dice[1:] == [f"{data['dice']:.4f}", f"{data['pooled']['dice']:.4f}"]
    assert "images: 2" in lines
    assert any(line.startswith("cell1.png") for line in lines)


def test_undefined_figures_are_dashes_and_columns_are_straight() -> None:
    table = figures_table(
        {
            "dice": 0.5,
            "auc": None,
            "n": 3,
            "pooled": {"dice": 0.25, "auc": 1.0},
            "per_class": {"liver": {"dice": 0.125}},
        }
    )
    head, dice, auc, count = table.splitlines()
    assert head.split()[-1] == "liver"
    assert dice.split() == ["dice", "0.5000", "0.2500", "0.1250"]
    assert auc.split() == ["auc", "-", "1.0000", "-"]
    assert count == "images: 3"
    assert len(head) == len(dice) == len(auc)
    assert aligned([]) == []


def test_a_card_is_read_by_people() -> None:
    text = run("info", "ct_organs_smooth_unet").stdout
    card = read_card_of("ct_organs_smooth_unet")
    assert "{" not in text
    assert "1 liver, 2 spleen, 3 kidneys" in text
    assert f"parameters  {card.parameters:,}" in text
    assert str(card.provenance["command"]) in text


def read_card_of(name: str):
    from napari_attnseg.cards import resolve_checkpoint

    return read_card(resolve_checkpoint(name))


def test_the_sweep_has_a_row_at_the_models_own_threshold(
    tiny_checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch

    from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint

    own = load_checkpoint(str(tiny_checkpoint))
    card = own.card.__class__(
        **{**own.card.__dict__, "tuning": own.card.tuning.replace(threshold=0.0621)}
    )
    with torch.no_grad():
        save_checkpoint(tmp_path / "own.safetensors", own.model, card)
    wish = ("--images", folders[0], "--masks", folders[1], "--out", tmp_path / "s")
    table = run("sweep", tmp_path / "own.safetensors", *wish).stdout
    first = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert "0.0621 (the model's own)" in first
    assert "2 (plain)" in first
    assert "0.9" in first
    same = run("sweep", tiny_checkpoint, *wish).stdout  # its own is 0.1: no row twice
    assert sum(line.startswith("| 0.1 ") for line in same.splitlines()) == 1
    assert "0.1 (the model's own)" in same


def test_a_foreign_file_is_called_foreign_and_a_broken_one_broken(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "picture.png"
    imsave(foreign, np.zeros((40, 40), np.uint8), check_contrast=False)
    with pytest.raises(CheckpointError, match="not a napari-attnseg checkpoint"):
        read_card(foreign)
    whole = tiny_checkpoint.read_bytes()
    for length in (9, 200, len(whole) - 1):
        torn = tmp_path / "torn.safetensors"
        torn.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_card(torn)


def test_every_tunable_of_the_card_can_be_given(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import torch

    from napari_attnseg import create_model
    from napari_attnseg.cards import Card
    from napari_attnseg.models.checkpoint import save_checkpoint

    torch.manual_seed(1)
    model = create_model("attention_unet", in_channels=1, classes=1, width=0.06)
    path = tmp_path / "levels.safetensors"
    names = {t.name for t in model.tunables}
    save_checkpoint(path, model, Card(spec=model.spec.to_json(), tuning=model.tuning()))
    assert "level_2" in names
    wish = ("evaluate", path, "--images", folders[0], "--masks", folders[1], "--json")
    plain = json.loads(run(*wish).stdout)
    ones = json.loads(run(*wish, "--tune", "level_2=1").stdout)
    off = json.loads(run(*wish, "--tune", "level_2=0", "--tune", "level_1=0").stdout)
    assert ones == plain
    assert off["auc"] != plain["auc"]
    out = tmp_path / "o"
    done = run("predict", path, folders[0], "--out", out, "--tune", "level_2=0")
    assert done.exit_code == 0, done.output
    provenance = (out / "cell0_mask.png").read_bytes()
    assert b"level_2" in provenance
    for wrong, says in [
        ("level_2=7", "got --tune level_2=7, expected 0 to 1"),
        ("level_2=x", "got --tune level_2=x, expected 0 to 1"),
        ("level_2", "expected NAME=VALUE"),
        ("level_77=0", "got --tune level_77, which this model does not have"),
        ("cut=2", "got --tune cut=2, expected 0 to 1"),
    ]:
        refused = str(run(*wish, "--tune", wrong).exception)
        assert says in refused
    twice = run(*wish, "--cut", "0.4", "--tune", "cut=0.3")
    assert "got cut twice" in str(twice.exception)


def test_a_training_ends_with_sentences(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    common = ("train", "--images", folders[0], "--masks", folders[1], "--out", out, "--epochs", 1)
    done = run(*common, "--option", "width=0.06", "--set", "crop=16", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "training on cpu, 1 epoch\n" in done.output
    assert "{" not in done.output
    lines = done.output.splitlines()[-5:]
    assert "finished after 1 epoch" in lines
    assert lines[-2] == f"checkpoint written: {out}"
    assert lines[-1].startswith("state for --resume written: ")


def test_a_model_that_marks_nothing_is_told() -> None:
    from napari_attnseg.cli._progress import describe
    from napari_attnseg.control.messages import Finished

    found = {"best_dice": 0.0, "best_epoch": 2, "epochs": 2, "new_epochs": 2}
    found["measured_on"] = "validation"
    said = describe(Finished(reason="done", summary=found)).splitlines()
    assert said == [
        "finished after 2 epochs",
        "best model: Dice 0.000 on validation, epoch 2",
        "the model marks no right pixel yet: train longer, or look with --check",
    ]
    said = describe(Finished(reason="cancelled", summary={**found, "best_dice": 0.5}))
    assert "stopped after 2 epochs" in said
    assert "marks no" not in said


def test_refused_work_leaves_no_empty_folder(
    tiny_checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "a" / "b"
    both = ("--images", folders[0], "--masks", folders[1])
    for wish in (
        ("sweep", tmp_path / "none.safetensors", *both),
        ("sweep", tiny_checkpoint, *both, "--cut", "0.5", "--tune", "level_9=0"),
        ("sweep", tiny_checkpoint, *both, "--device", "cuda:99"),
        ("cka", tiny_checkpoint, "--images", folders[0]),  # two images are too few
    ):
        found = run(*wish, "--out", out)
        assert isinstance(found.exception, AttnSegError), found.output
        assert not (tmp_path / "a").exists()
    assert "napari-attnseg info" in str(
        run("evaluate", tiny_checkpoint, *both, "--device", "cuda:99").exception
    )
    out.mkdir(parents=True)
    assert run("cka", tiny_checkpoint, "--images", folders[0], "--out", out).exit_code
    assert out.is_dir()  # it was there before
