"""Refinement from the command line: train, predict with few or all iterations, keep every mask."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import run
from PIL import Image
from skimage.io import imread, imsave

from refined_models import refined_checkpoint

RNG = np.random.default_rng(5)
SMALL = ["--option", "width=0.125", "--option", "levels=2", "--option", "iterations=2"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for i, shape in enumerate([(33, 47), (40, 29), (31, 31)]):
        image = RNG.integers(0, 60, shape).astype(np.uint8)
        mask = np.zeros(shape, np.uint8)
        mask[8:20, 9:22] = 1
        image[mask > 0] += 150
        imsave(images / f"cell{i}.png", image, check_contrast=False)
        imsave(masks / f"cell{i}.png", mask * 255, check_contrast=False)
    return images, masks


def refused(*arguments: object) -> str:
    found = run(*arguments)
    assert found.exit_code != 0
    return str(found.exception)


def test_train_resume_and_describe(folders, tiny_checkpoint, tmp_path) -> None:
    out = tmp_path / "mine.safetensors"
    data = ["--images", folders[0], "--masks", folders[1]]
    common = [*data, "--refine", "dyspn", "--coarse", tiny_checkpoint, "--out", out, *SMALL]
    quick = ["--batch", 16, "--set", "crop=32"]
    first = run("train", *common, *quick, "--epochs", 1)
    assert first.exit_code == 0, first.output
    assert "coarse model tiny.safetensors: tiny, frozen" in first.output
    again = run("train", *common, *quick, "--epochs", 2, "--resume")
    assert again.exit_code == 0, again.output
    card = json.loads(run("info", out, "--json").stdout)
    assert card["class_names"] == ["background", "nuclei"]
    assert card["spec"]["options"]["refine"] == "dyspn"
    assert card["tuning"]["iterations"] == 2
    assert card["provenance"]["epoch"] in (1, 2)


def test_what_does_not_go_together_is_refused(folders, tiny_checkpoint, tmp_path) -> None:
    data = [
        "train",
        "--images",
        folders[0],
        "--masks",
        folders[1],
        "--out",
        tmp_path / "m.safetensors",
    ]
    both = ["--refine", "cspn", "--coarse", tiny_checkpoint]
    assert "without --coarse" in refused(*data, "--refine", "cspn")
    assert "got --coarse without --refine" in refused(*data, "--coarse", tiny_checkpoint)
    assert "got --fine-tune without --refine" in refused(*data, "--fine-tune")
    assert "the model to refine is --coarse" in refused(*data, *both, "--model", "unet")
    assert "that of --coarse" in refused(*data, *both, "--preprocessing", "size=64")
    assert "keeps the classes" in refused(*data, *both, "--classes", "a,b")
    assert "cspn or dyspn" in refused(*data, "--refine", "x", *both[2:], "--dry-run")
    assert "without a coarse model" in refused(*data, "--model", "refined", "--dry-run")


def test_predict_with_other_iterations_and_every_step(folders, tiny_checkpoint, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    image = folders[0] / "cell0.png"
    masks = {}
    for count in (0, 1, 3):
        out = tmp_path / f"o{count}"
        found = run("predict", model, image, "--out", out, "--iterations", count)
        assert found.exit_code == 0, found.output
        masks[count] = imread(out / "cell0_mask.png")
    found = run("predict", tiny_checkpoint, image, "--out", tmp_path / "c")
    assert np.array_equal(imread(tmp_path / "c" / "cell0_mask.png"), masks[0])
    found = run("predict", model, folders[0], "--out", tmp_path / "s", "--save-steps")
    assert found.exit_code == 0, found.output
    steps = sorted((tmp_path / "s" / "cell0_steps").iterdir())
    assert [p.name for p in steps] == [f"step_{n:02d}.png" for n in range(4)]
    for count, mask in masks.items():
        assert np.array_equal(imread(steps[count]), mask)
    changed = [int((imread(b) != imread(a)).sum()) for a, b in pairwise(steps)]
    words = ", ".join(map(str, changed))
    assert f"cell0_steps: 4 masks; pixels changed per iteration: {words}" in found.output


def test_longer_steps_of_an_earlier_run_do_not_stay(folders, tiny_checkpoint, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    folder = tmp_path / "o" / "cell0_steps"
    for count in (3, 1, 2):
        common = [folders[0] / "cell0.png", "--out", tmp_path / "o", "--save-steps"]
        found = run("predict", model, *common, "--iterations", count)
        assert found.exit_code == 0, found.output
        if count == 3:
            (folder / "step_by_me.png").write_bytes(b"mine")
            (folder / "step_07.txt").write_bytes(b"mine")
        steps = sorted(p.name for p in folder.iterdir())
        own = ["step_07.txt", "step_by_me.png"]
        assert steps == sorted([*(f"step_{n:02d}.png" for n in range(count + 1)), *own])


def test_every_step_of_a_volume(tiny_checkpoint, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors", "dyspn")
    affine = np.array([[-1.9, 0.3, 0, 40], [0.3, 1.9, 0.1, -20], [0, -0.1, 3, 7], [0, 0, 0, 1.0]])
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(RNG.normal(0, 99, (11, 13, 5)).astype(np.float32), affine), scan)
    out = tmp_path / "o"
    found = run("predict", model, scan, "--out", out, "--save-steps")
    assert found.exit_code == 0, found.output
    last = nib.load(out / "scan_steps" / "step_03.nii.gz")
    whole = nib.load(out / "scan_mask.nii.gz")
    assert np.array_equal(last.get_fdata(), whole.get_fdata())
    assert np.allclose(last.affine, affine)


def test_iterations_are_refused_where_there_are_none(tiny_checkpoint, folders, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors", "dyspn")
    common = [folders[0], "--out", tmp_path / "o"]
    assert "got --iterations" in refused("predict", tiny_checkpoint, *common, "--iterations", 1)
    assert "has no iterations" in refused("predict", tiny_checkpoint, *common, "--save-steps")
    assert "expected 0 to 3" in refused("predict", model, *common, "--iterations", 4)


def test_masks_of_any_model_are_refined(folders, tiny_checkpoint, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    image, out = folders[0] / "cell0.png", tmp_path / "o"
    common = ["predict", tiny_checkpoint, image, "--refine", model, "--out", out]
    found = run(*common, "--save-steps", "--save", "probability")
    assert found.exit_code == 0, found.output
    run("predict", model, image, "--out", tmp_path / "whole", "--save-steps")
    for name in ("cell0_mask.png", "cell0_steps/step_00.png", "cell0_steps/step_03.png"):
        assert np.array_equal(imread(out / name), imread(tmp_path / "whole" / name))
    with Image.open(out / "cell0_mask.png") as file:
        told = json.loads(file.text["napari-attnseg"])["provenance"]
    assert (told["model"], told["refinement"]["model"]) == ("tiny.safetensors", model.name)
    assert told["refinement"]["tuning"] == {"iterations": 3, "cut": 0.5}
    assert told["model_digest"] != told["refinement"]["model_digest"]
    assert run(*common, "--iterations", 1, "--threshold", 0.4).exit_code == 0
    with Image.open(out / "cell0_mask.png") as file:
        told = json.loads(file.text["napari-attnseg"])["provenance"]
    assert told["tuning"]["threshold"] == 0.4
    assert told["refinement"]["tuning"]["iterations"] == 1


def test_what_cannot_refine_is_refused(folders, tiny_checkpoint, tmp_path) -> None:
    common = ["predict", tiny_checkpoint, folders[0], "--out", tmp_path / "o", "--refine"]
    assert "choose a refined one" in refused(*common, tiny_checkpoint)
    assert "neither a checkpoint fi" in refused(*common, tmp_path / "none.safetensors")
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    assert "expected 0 to 12" in refused(*common, model, "--iterations", 13)
    organs = ["predict", "ct_organs_smooth_unet", *common[2:]]
    assert "choose a refinement that was trained" in refused(*organs, model)
    assert not (tmp_path / "o").exists()


def test_evaluate_with_fewer_iterations(tiny_checkpoint, folders, tmp_path) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    data = ["--images", folders[0], "--masks", folders[1], "--json"]
    coarse = json.loads(run("evaluate", tiny_checkpoint, *data).stdout)
    none = json.loads(run("evaluate", model, *data, "--iterations", 0).stdout)
    assert none["dice"] == pytest.approx(coarse["dice"])


def test_evaluate_with_a_refinement_on_top(tiny_checkpoint, folders, tmp_path) -> None:
    """On its own coarse model it is the refined model; the values go where predict sends them."""
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    data = ["--images", folders[0], "--masks", folders[1], "--json", "--per-image"]
    on_top = ["evaluate", tiny_checkpoint, *data, "--refine", model]
    told = {
        "whole": run("evaluate", model, *data),
        "top": run(*on_top),
        "none": run(*on_top, "--iterations", 0),
        "coarse": run("evaluate", tiny_checkpoint, *data),
    }
    assert all(found.exit_code == 0 for found in told.values())
    figures = {name: json.loads(found.stdout) for name, found in told.items()}
    for one, other in (("whole", "top"), ("none", "coarse")):
        for name in ("dice", "auc", "n"):
            assert figures[one][name] == pytest.approx(figures[other][name], abs=1e-6)
    assert figures["top"]["auc"] != pytest.approx(figures["coarse"]["auc"], abs=1e-6)
    moved = json.loads(run(*on_top, "--threshold", 2.0, "--cut", 0.7).stdout)
    assert moved["dice"] != pytest.approx(figures["top"]["dice"])
    assert "choose a refined one" in refused(
        "evaluate", tiny_checkpoint, *data[:4], "--refine", tiny_checkpoint
    )
