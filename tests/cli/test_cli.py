"""The command line on real files in a temporary folder, through its own entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import message, run
from skimage.io import imread, imsave

RNG = np.random.default_rng(3)


def test_a_real_process_ends_with_the_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "napari_attnseg", "info", "nowhere.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: got nowhere.safetensors")
    assert "Traceback" not in done.stderr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images of odd sizes with bright squares, and their masks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for i, shape in enumerate([(33, 47), (40, 29), (31, 31)]):
        image = RNG.integers(0, 60, shape).astype(np.uint8)
        mask = np.zeros(shape, np.uint8)
        mask[8:20, 9:22] = 1
        image[mask > 0] += 150
        imsave(images / f"cell{i}.png", image, check_contrast=False)
        imsave(masks / f"cell{i}_mask.png", mask * 255, check_contrast=False)
    return images, masks


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An oblique, anisotropic volume of 11 x 13 x 5 voxels."""
    affine = np.array([[-1.9, 0.3, 0, 40], [0.3, 1.9, 0.1, -20], [0, -0.1, 3, 7], [0, 0, 0, 1.0]])
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(RNG.normal(0, 99, (11, 13, 5)).astype(np.float32), affine), path)
    return path


def test_one_mask_per_input(tiny_checkpoint, folders, scan, tmp_path) -> None:
    out = tmp_path / "out"
    result = run("predict", tiny_checkpoint, folders[0], scan, "--out", out)
    assert result.exit_code == 0, result.output
    names = {p.name for p in out.iterdir()}
    masks = {"cell0_mask.png", "cell1_mask.png", "cell2_mask.png", "scan_mask.nii.gz"}
    assert names == {*masks, "predictions.csv"}
    mask, source = nib.load(out / "scan_mask.nii.gz"), nib.load(scan)
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)
    assert imread(out / "cell1_mask.png").shape == (40, 29)


def test_predict_is_the_session(tiny_checkpoint, folders, tmp_path) -> None:
    from napari_attnseg import Session, Tuning

    image = folders[0] / "cell0.png"
    run("predict", tiny_checkpoint, image, "--out", tmp_path, "--threshold", 0.02, "--cut", 0.45)
    session = Session(str(tiny_checkpoint), device="cpu")
    session.set_image(image)
    tuning = session.tuning.replace(threshold=0.02, cut=0.45)
    assert isinstance(tuning, Tuning)
    expected = session.predict(0, tuning).labels
    assert np.array_equal(imread(tmp_path / "cell0_mask.png"), expected)


def test_extras_only_on_request(tiny_checkpoint, scan, tmp_path) -> None:
    out = tmp_path / "out"
    result = run(
        "predict", tiny_checkpoint, scan, "--out", out, "--save", "probability", "--save", "objects"
    )
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {
        "scan_mask.nii.gz",
        "scan_probability.nii.gz",
        "scan_objects.nii.gz",
    }
    values = nib.load(out / "scan_probability.nii.gz").get_fdata()
    assert 0 <= values.min() <= values.max() <= 1


def test_a_bad_file_does_not_cost_the_others(tiny_checkpoint, folders, tmp_path) -> None:
    (folders[0] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    out = tmp_path / "out"
    code, error = message("predict", tiny_checkpoint, folders[0], "--out", out)
    assert code == 1
    assert "broken.png" in error
    assert "3 of 4 masks written" in error
    assert len(list(out.glob("*_mask.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png", "--out", "o"], "nowhere.png"),
        (["{scan}", "--out", "{scan}"], "expected a folder"),
        (["{scan}", "--out", "o", "--rule", "newest"], "paper, authors, suppress"),
        (["{scan}", "--out", "o", "--save", "everything"], "probability, objects"),
        (["{four}", "--out", "o"], "--volume"),
        (["{a}", "{b}", "--out", "o"], "different folders"),
    ],
)
def test_bad_requests_are_one_sentence(tiny_checkpoint, scan, tmp_path, arguments, says) -> None:
    four = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7, 3), np.int16), np.eye(4)), four)
    twins = [tmp_path / name / "same.png" for name in "ab"]
    for twin in twins:
        twin.parent.mkdir()
        imsave(twin, np.zeros((9, 9), np.uint8), check_contrast=False)
    known = {"scan": scan, "four": four, "a": twins[0], "b": twins[1]}
    code, error = message("predict", tiny_checkpoint, *[a.format(**known) for a in arguments])
    assert code == 1
    assert says in error
    assert "Traceback" not in error


def test_volume_of_a_4d_file(tiny_checkpoint, tmp_path) -> None:
    four = tmp_path / "four.nii.gz"
    data = RNG.normal(size=(9, 10, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([2, 2, 3, 1.0])), four)
    result = run("predict", tiny_checkpoint, four, "--out", tmp_path / "o", "--volume", 2)
    assert result.exit_code == 0, result.output
    assert nib.load(tmp_path / "o" / "four_mask.nii.gz").shape == (9, 10, 4)


def test_evaluate_json(tiny_checkpoint, folders) -> None:
    result = run(
        "evaluate", tiny_checkpoint, "--images", folders[0], "--masks", folders[1], "--json"
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {"dice", "iou", "precision", "recall", "accuracy", "n"} <= set(figures)
    assert figures["n"] == 3
    assert 0 <= figures["dice"] <= 1


def test_sweep_writes_table_and_plot(tiny_checkpoint, folders, tmp_path) -> None:
    out = tmp_path / "sweep"
    result = run(
        "sweep", tiny_checkpoint, "--images", folders[0], "--masks", folders[1], "--out", out
    )
    assert result.exit_code == 0, result.output
    table = (out / "sweep.md").read_text()
    assert table in result.stdout
    assert sum(line.startswith("| ") for line in table.splitlines()) == 2 + 10
    assert imread(out / "sweep.png").ndim == 3


def test_train_predict_evaluate_and_resume(folders, tmp_path) -> None:
    model = tmp_path / "mine.safetensors"
    common = ["--images", folders[0], "--masks", folders[1], "--out", model]
    small = ["--option", "width=0.125", "--set", "crop=32", "--classes", "cell"]
    assert run("train", *common, *small, "--epochs", 1, "--batch", 2).exit_code == 0
    card = json.loads(run("info", model, "--json").stdout)
    assert card["class_names"] == ["background", "cell"]
    assert card["spec"]["options"]["width"] == 0.125
    idle = run("train", *common, *small, "--epochs", 1, "--batch", 2, "--resume")
    assert idle.exit_code == 0, idle.output
    assert "give a larger --epochs" in idle.output
    again = run("train", *common, *small, "--epochs", 2, "--batch", 2, "--resume")
    assert again.exit_code == 0, again.output
    assert "larger --epochs" not in again.output
    before = model.read_bytes()
    lost = ["--images", tmp_path / "none", "--masks", folders[1], "--out", model]
    code, error = message("train", *lost)  # before anything is read
    assert code == 1
    assert "which exists; use --resume, another --out, or --overwrite" in error
    assert model.read_bytes() == before
    assert run("train", *common, *small, "--epochs", 1, "--overwrite").exit_code == 0
    assert model.read_bytes() != before
    assert run("predict", model, folders[0], "--out", tmp_path / "o").exit_code == 0


def test_training_starts_from_local_encoder_weights(folders, tmp_path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from napari_attnseg import create_model

    encoder = create_model("smooth_unet", in_channels=3, width=0.125, stride=8).encoder
    weights = {"fc.weight": torch.zeros(3, 4), **encoder.state_dict()}
    published = tmp_path / "resnet.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items()}, published)
    model = tmp_path / "m.safetensors"
    common = ["--images", folders[0], "--masks", folders[1], "--out", model, "--epochs", 1]
    small = ["--option", "width=0.125", "--set", "crop=32", "--lr", 1e-9]
    done = run("train", *common, *small, "--encoder-weights", published)
    assert done.exit_code == 0, done.output
    (name,) = (n for n in load_file(model) if n.endswith("layer1.0.conv1.weight"))
    assert torch.allclose(load_file(model)[name], weights["layer1.0.conv1.weight"], atol=1e-6)
    again = [*common, *small, "--overwrite", "--encoder-weights", tmp_path / "none.pth"]
    code, error = message("train", *again)
    assert code == 1
    assert "none.pth" in error


def test_dry_run_looks_at_the_data_and_trains_nothing(folders, tmp_path) -> None:
    common = ["--images", folders[0], "--masks", folders[1]]
    small = ["--option", "width=0.125", "--classes", "cell"]
    found = run("train", *common, *small, "--dry-run")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].startswith("3 pairs")
    assert any(line.startswith("labels: 0: ") for line in lines)
    assert any(line.startswith("intensity: ") for line in lines)
    assert lines[-1].startswith("model: smooth_unet, ")
    assert "classes background, cell" in lines[-1]
    assert list(tmp_path.rglob("*.safetensors")) == []
    code, error = message("train", *common, *small)
    assert code == 1
    assert "got no --out" in error


def test_dry_run_fails_where_training_would(folders, tmp_path) -> None:
    for mask in folders[1].iterdir():
        imsave(mask, np.zeros_like(imread(mask)), check_contrast=False)
    found = run("train", "--images", folders[0], "--masks", folders[1], "--dry-run")
    assert found.exit_code == 1
    assert "problem: " in found.stdout


def test_check_learns_one_image_and_writes_nothing(folders, tmp_path) -> None:
    before = sorted(tmp_path.rglob("*"))
    common = ["--images", folders[0], "--masks", folders[1], "--option", "width=0.125"]
    small = ["--set", "crop=32", "--check", "--check-steps", 20, "--device", "cpu"]
    done = run("train", *common, *small, "--lr", 1e-9)
    assert done.exit_code == 1
    assert "learning one image on cpu, at most 20 steps\nnote: image: " in done.output
    assert "step 1/20" in done.output
    assert "does not learn" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_training_prints_the_look_at_the_data_first(folders, tmp_path) -> None:
    common = ["--images", folders[0], "--masks", folders[1], "--out", tmp_path / "m.safetensors"]
    small = ["--option", "width=0.125", "--set", "crop=32", "--set", "amp=true", "--epochs", 1]
    done = run("train", *common, *small, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3 pairs (3 looked at closely)")
    assert "note: mixed precision is for CUDA; on cpu all is in float32" in done.output
    # three images are too few to keep some back: no word of validation
    assert "training pixels: dice" in done.output
    assert "validation: " not in done.output


def test_another_model_starts_from_its_own_options(folders, tmp_path) -> None:
    model = tmp_path / "m.safetensors"
    common = ["--images", folders[0], "--masks", folders[1], "--out", model, "--epochs", 1]
    small = ["--set", "crop=32", "--set", "class_weights=balanced", "--batch", 16]
    done = run("train", *common, *small, "--model", "mobile_unet", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "gamma" not in done.output
    card = json.loads(run("info", model, "--json").stdout)
    assert card["spec"]["name"] == "mobile_unet"
    assert card["provenance"]["settings"]["class_weights"] == "balanced"
    other = [*common, "--overwrite", "--model", "mobile_unet", "--option", "stride=8"]
    code, error = message("train", *other)
    assert code == 1
    assert "got option stride for mobile_unet" in error


def test_unknown_training_values_are_refused_with_the_known(folders, tmp_path) -> None:
    none = ["--images", tmp_path / "none", "--masks", folders[1]]  # words come before folders
    common = [*none, "--out", tmp_path / "m.safetensors"]
    for bad, says in [
        (["--set", "learning=3"], "gamma_start"),
        (["--set", "epochs"], "NAME=VALUE"),
        (["--recipe", "best"], "smooth-attention-paper"),
        (["--preprocessing", "sharpness=2"], "sharpness"),
        (["--option", "widht=2"], "widht"),
        (["--model", "best"], "got model 'best'"),
        (["--set", "optimizer=lion"], "adam or adamw or sgd"),
        (["--set", "epochs=many"], "a whole number"),
        (["--set", "augment=1"], "true or false"),
        (["--set", "crop=1.5"], "a whole number of pixels, or null"),
        (["--set", "class_weights=1,x"], "a number per class"),
        (["--set", "class_names=a"], "expected one of model"),
        (["--option", "threshold=7"], "expected 0 to 1, or 2 for plain attention"),
        (["--set", "threshold=1.5"], "expected 0 to 1, or 2 for plain attention"),
        (["--option", "stride=7"], "expected one of 8, 16, 32"),
        (["--out", "m.x"], "ends in .safetensors"),
    ]:
        code, error = message("train", *common, *bad)
        assert code == 1
        assert says in error
        assert "Traceback" not in error
        assert "none" not in error
    common[1] = folders[0]
    for bad, says in [
        (["--set", "class_weights=1,2,3"], "expected 2 numbers"),
        (["--set", "optimizer=sgd", "--set", "momentum=1"], "got momentum 1.0"),
    ]:
        code, error = message("train", *common, *bad)
        assert code == 1
        assert says in error


def test_models_and_info() -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert "smooth_unet" in listed["models"]
    assert "torch" in run("info").stdout


# --- bad input ------------------------------------------------------------------------------------


def recarded(path, target, **changes):
    """The checkpoint at ``path`` with another card."""
    from safetensors.torch import load_file, save_file

    from napari_attnseg.cards import read_card

    card = read_card(path).to_json() | changes
    save_file(load_file(path), target, metadata={"attnseg_card": json.dumps(card)})
    return target


@pytest.mark.parametrize("command", ["predict", "evaluate", "sweep", "info"])
def test_checkpoints_that_cannot_be_used(tiny_checkpoint, folders, tmp_path, command) -> None:
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(b"PK\x03\x04" + bytes(200))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(tiny_checkpoint.read_bytes()[:-9])
    newer = recarded(tiny_checkpoint, tmp_path / "newer.safetensors", format=2)
    out = tmp_path / "out"
    pairs = ["--images", folders[0], "--masks", folders[1]]
    rest = {
        "predict": [folders[0], "--out", out],
        "evaluate": pairs,
        "sweep": [*pairs, "--out", out],
        "info": [],
    }[command]
    for path, says in [(pickled, "pickle"), (torn, "truncated"), (newer, "up to 1; update")]:
        code, error = message(command, path, *rest)
        assert code == 1
        assert says in error
        assert "Traceback" not in error
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
def test_masks_that_do_not_fit(tiny_checkpoint, folders, tmp_path, command) -> None:
    images, masks = folders
    out = tmp_path / "o" / "m.safetensors"
    head = [] if command == "train" else [tiny_checkpoint]
    tail = [] if command == "evaluate" else ["--out", out if command == "train" else out.parent]
    lonely = tmp_path / "empty"
    lonely.mkdir()
    code, error = message(command, *head, "--images", images, "--masks", lonely, *tail)
    assert code == 1
    assert "no" in error
    imsave(masks / "cell1_mask.png", np.eye(41, 29, dtype=np.uint8), check_contrast=False)
    code, error = message(command, *head, "--images", images, "--masks", masks, *tail)
    assert code == 1
    assert "cell1" in error
    assert "41" in error
    assert "Traceback" not in error
    assert not out.exists()


def test_what_does_not_pair_is_listed(tiny_checkpoint, folders, tmp_path) -> None:
    (folders[1] / "cell2_mask.png").unlink()
    common = ["--images", folders[0], "--masks", folders[1]]
    small = ["--epochs", 1, "--option", "width=0.06", "--set", "crop=16"]
    train = ["train", *common, "--out", tmp_path / "m.safetensors", *small]
    for words in (["evaluate", tiny_checkpoint, *common], train):
        result = run(*words)
        assert result.exit_code == 0, result.output
        assert "cell2.png" in result.output


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "x")])
def test_no_memory_or_disk_is_a_sentence(
    tiny_checkpoint, folders, tmp_path, monkeypatch, error
) -> None:
    def refuse(*given, **named):
        raise error

    monkeypatch.setattr("napari_attnseg.engine.batch_make.read_image", refuse)
    code, text = message("predict", tiny_checkpoint, folders[0], "--out", tmp_path / "o")
    assert code == 1
    said = "memory ran out" if isinstance(error, MemoryError) else "No space left on device (x)"
    assert text.count(said) == 3
    assert "0 of 3 masks" in text
    assert "Traceback" not in text


def test_names_and_colours_of_the_classes_travel_with_the_mask(
    tiny_checkpoint, scan, tmp_path
) -> None:
    colors = ["#101418", "#12ab34"]
    model = recarded(tiny_checkpoint, tmp_path / "tinted.safetensors", class_colors=colors)
    assert run("predict", model, scan, "--out", tmp_path / "o").exit_code == 0
    (extension,) = nib.load(tmp_path / "o" / "scan_mask.nii.gz").header.extensions
    text = bytes(extension.get_content()).decode()
    assert "#12ab34" in text
    assert "nuclei" in text
