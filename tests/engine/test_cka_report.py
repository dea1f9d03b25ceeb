"""CKA from files: checkpoints of unlike input, colour and volumes, the table and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from skimage.io import imread, imsave
from typer.testing import CliRunner

from napari_attnseg.cards import Card
from napari_attnseg.cli import app
from napari_attnseg.engine.cka import CKAResult
from napari_attnseg.engine.cka_report import CKARequest, compare_checkpoints, part_starts, plot
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.checkpoint import save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five grey and colour images of odd sizes."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for i, shape in enumerate([(41, 37), (29, 53, 3), (33, 33), (40, 31, 3), (31, 47)]):
        pixels = rng.integers(0, 255, shape).astype(np.uint8)
        imsave(images / f"{i}.png", pixels, check_contrast=False)
    return images


def test_command_inside_one_checkpoint(folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["cka", tiny_checkpoint, "--images", folder, "--out", out, "--size", 32]
    done = CliRunner().invoke(app, [str(a) for a in (*arguments, "--batch", 4, "--device", "cpu")])
    assert done.exit_code == 0, done.output
    table = json.loads((out / "cka.json").read_text())
    assert table["layers_a"] == table["layers_b"]
    diagonal = [row[i] for i, row in enumerate(table["values"]) if row[i] is not None]
    np.testing.assert_allclose(diagonal, 1, atol=1e-6)
    assert (table["images"], table["batches"]) == (4, 1)
    assert table["versions"]["torch"] == torch.__version__
    assert imread(out / "cka.png").ndim == 3


def test_two_checkpoints_over_slices_of_a_volume(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = np.random.default_rng(1).normal(size=(23, 19, 9)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1])), path)
    name = str(tiny_checkpoint)
    request = CKARequest(name, (path,), name, ("decoder.*",), size=16, batch=4, limit=9)
    steps = compare_checkpoints(request, "cpu")
    assert [next(steps), next(steps)] == [(1, 2), (2, 2)]
    with pytest.raises(StopIteration) as end:
        next(steps)
    result: CKAResult = end.value.value
    assert result.images == 8
    assert result.layers_a == result.layers_b
    kept = np.diag(result.values)[~np.isnan(np.diag(result.values))]
    np.testing.assert_allclose(kept, 1, atol=1e-6)


def test_too_few_images(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "one.png"
    imsave(path, np.zeros((16, 16), np.uint8), check_contrast=False)
    with pytest.raises(InputError, match="got 1 images for CKA, expected at least 4"):
        next(compare_checkpoints(CKARequest(str(tiny_checkpoint), (path,)), "cpu"))


def test_a_3d_model_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    model = create_model("unet", in_channels=1, ndim=3, width=0.1, levels=1)
    card = Card(spec=model.spec.to_json(), tuning=model.tuning())
    save_checkpoint(tmp_path / "whole.safetensors", model, card)
    images = tuple(sorted(folder.iterdir()))
    wish = CKARequest(str(tmp_path / "whole.safetensors"), images)
    with pytest.raises(InputError, match=r"whole\.safetensors, expected models of slices"):
        next(compare_checkpoints(wish, "cpu"))


def test_picture_has_the_first_layers_at_the_lower_left(tmp_path: Path) -> None:
    values = np.array([[1.0, 0.0], [np.nan, 0.0]])
    plot(CKAResult(("first", "second"), ("x", "y"), values), tmp_path / "map.png")
    picture = imread(tmp_path / "map.png")[..., :3].astype(int)
    bright = np.abs(picture - (252, 253, 191)).sum(-1) < 12  # the upper end of magma
    dark = np.abs(picture - (0, 0, 4)).sum(-1) < 6
    grey = np.abs(picture - 153).sum(-1) < 6
    at = [np.median(np.argwhere(mask), axis=0) for mask in (bright, grey, dark)]
    assert at[0][0] > at[1][0]  # the first layer of a is below the second
    assert at[1][1] < at[2][1]  # the first layer of b is left of the second


def test_many_layers_are_named_by_the_parts_of_the_model() -> None:
    layers = [f"encoder.layer{i}.{j}" for i in range(4) for j in range(30)]
    layers += [f"ups.{i}.conv" for i in range(5)] + ["head"]
    assert part_starts(layers) == [
        (0, "encoder.layer0"),
        (30, "encoder.layer1"),
        (60, "encoder.layer2"),
        (90, "encoder.layer3"),
        (120, "ups.0"),
        (123, "ups.3"),
    ]
    assert part_starts([f"{a}.x" for a in "abcdefgh"])[:2] == [(0, "a"), (1, "b")]
