"""Training of 3D models: patches by hand, blocks kept back, a net that learns, resume, the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss

from napari_attnseg.cards import read_card
from napari_attnseg.control.checks import OverfitDone
from napari_attnseg.control.messages import EpochDone, Finished, Started
from napari_attnseg.engine.augment import Draw
from napari_attnseg.engine.data import FolderSource, Slice
from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.losses import IGNORE, dice_cross_entropy, focal
from napari_attnseg.engine.overfit import overfit
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.train import train
from napari_attnseg.engine.volume_data import VolumeSource, collate_patches, varied
from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image
from napari_attnseg.models.checkpoint import load_checkpoint
from napari_attnseg.settings import Preprocessing, TrainSettings, with_patch

SETTINGS = TrainSettings(
    model="placed_unet",
    options={"ndim": 3, "width": 0.1, "levels": 1, "attention": "bottleneck=se"},
    preprocessing=Preprocessing(intensity="window", low=0, high=100, patch=(6, 8, 8)),
    loss="dicece",
    epochs=2,
    batch=4,
    lr=0.02,
)
SHAPE = (19, 17, 11)  # in the file: x, y, z
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def ball(shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright column in noise (x, y, z), and where it is."""
    x, y, _ = np.indices(SHAPE)
    mask = (x - 8 - shift) ** 2 + (y - 8) ** 2 < 20
    noise = np.random.default_rng(shift).normal(30, 10, SHAPE)
    return (noise + 40 * mask).astype(np.float32), mask.astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for i in range(2):
        pixels, mask = ball(i)
        nib.save(nib.Nifti1Image(pixels, AFFINE), images / f"case{i}.nii.gz")
        nib.save(nib.Nifti1Image(mask, AFFINE), masks / f"case{i}.nii.gz")
    return images, masks


def scanned(folders: tuple[Path, Path], settings: TrainSettings = SETTINGS) -> VolumeSource:
    source = VolumeSource(FolderSource(*folders))
    for _ in source.scan(settings):
        pass
    return source


def trained(folders: Any, out: Path, settings: TrainSettings = SETTINGS, **more: Any) -> list[Any]:
    events = train(settings, FolderSource(*folders), out, device="cpu", **more)
    return [e for e in events if e is not None]


def test_a_volume_stands_as_in_training(folders: tuple[Path, Path]) -> None:
    source = scanned(folders)
    volume = read_image(folders[0] / "case0.nii.gz")
    turn = tuple(slice(None, None, -1 if f else 1) for f in volume.flips)
    whole = source.whole(0)
    wanted = np.clip(volume.view / 100, 0, 1)[turn]
    np.testing.assert_allclose(whole.image[0].numpy(), wanted, atol=1e-6)
    mask = np.transpose(ball(0)[1], (2, 1, 0))[turn]
    np.testing.assert_array_equal(whole.target.numpy(), mask)


def test_blocks_part_every_volume(folders: tuple[Path, Path]) -> None:
    source = scanned(folders)
    assert len(source.slices) == 10
    planes = [z for s in source.slices if s.pair == 0 for z in source.planes(s)]
    assert planes == list(range(SHAPE[2]))
    counts = sum(source.class_counts(source.slices))
    np.testing.assert_array_equal(counts, np.bincount(np.r_[ball(0)[1].flat, ball(1)[1].flat]))


def test_a_patch_is_a_part_of_the_volume_and_hides_what_is_kept_back(
    folders: tuple[Path, Path],
) -> None:
    source = scanned(folders)
    held = source.slices[2]
    source.keep_back([held])
    whole = source.whole(0)
    hidden = 0
    for seed in range(30):
        block = source.slices[seed % 5]
        image, target = source.drawn(block, Draw(), np.random.default_rng(seed))
        assert image.shape == (1, 6, 8, 8)
        places = [
            (z, y, x)
            for z in range(SHAPE[2] - 5)
            for y in range(SHAPE[1] - 7)
            for x in range(SHAPE[0] - 7)
            if torch.equal(whole.image[:, z : z + 6, y : y + 8, x : x + 8], image)
        ]
        (z, y, x) = places[0]
        expected = whole.target[z : z + 6, y : y + 8, x : x + 8].clone()
        for i in range(6):
            if z + i in source.planes(held):
                expected[i] = IGNORE
                hidden += 1
        assert torch.equal(target, expected)
    assert hidden > 10


def test_mirrored_patches_move_image_and_labels_together() -> None:
    target = torch.zeros(7, 9, 11, dtype=torch.int16)
    target[1:3, 2:5, 6:9] = 1
    image = target[None].float()
    seen = set()
    for seed in range(12):
        draw = Draw(augment=True, kind="turns")
        moved, labels = varied(image, target, draw, np.random.default_rng(seed))
        known = labels != IGNORE
        agree = ((moved[0] > 0.5) == (labels == 1))[known].float().mean()
        assert agree > 0.99
        seen.add(tuple((np.argwhere(labels.numpy() == 1).mean(0) > [3, 4, 5]).tolist()))
    assert len(seen) >= 4


def test_smaller_patches_are_filled_up_and_ignored() -> None:
    small = torch.rand(1, 3, 8, 5), torch.ones(3, 8, 5, dtype=torch.int16)
    large = torch.rand(1, 6, 8, 8), torch.ones(6, 8, 8, dtype=torch.int16)
    images, targets = collate_patches([small, large])
    assert images.shape == (2, 1, 6, 8, 8)
    assert torch.equal(images[0, :, :3, :, :5], small[0])
    assert torch.equal(images[0, 0, 5], images[0, 0, 2])
    assert (targets[0] == IGNORE).sum() == 6 * 8 * 8 - 3 * 8 * 5
    assert (targets[1] == 1).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_losses_of_volumes_are_monais(classes: int) -> None:
    g = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 5, 7, 9, generator=g)
    target = torch.randint(0, max(2, classes), (2, 5, 7, 9), generator=g)
    theirs = DiceCELoss(
        to_onehot_y=classes > 1,
        softmax=classes > 1,
        sigmoid=classes == 1,
        include_background=classes == 1,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
        lambda_ce=0.0,
    )(logits, target[:, None])
    whole = dice_cross_entropy(logits, target)
    if classes == 1:
        ce = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    else:
        ce = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(whole, theirs + ce)
    flat = focal(logits.flatten(3), target.flatten(2))
    torch.testing.assert_close(focal(logits, target), flat)


def test_it_learns_and_the_checkpoint_predicts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    events = trained(folders, out, replace(SETTINGS, epochs=8))
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert max(e.validation["dice"] for e in epochs) > 0.8
    assert epochs[0].measured_on == "validation"
    card = read_card(out)
    assert card.preprocessing.patch == (6, 8, 8)
    assert card.spec["options"]["ndim"] == 3
    session = Session(out, "cpu")
    volume = read_image(folders[0] / "case1.nii.gz")
    session.set_image(volume)
    logits = np.stack([p.logits for _, p in session.run()], 1)
    turn = tuple(slice(None, None, -1 if f else 1) for f in volume.flips)
    x = torch.from_numpy(np.clip(volume.view / 100, 0, 1)[turn].copy())[None, None].float()
    model = load_checkpoint(out).model.eval()
    with torch.no_grad():
        expected = sliding_window_inference(x, (6, 8, 8), 1, model, 0.25, "gaussian")[0].numpy()
    np.testing.assert_allclose(logits, expected[(slice(None), *turn)], atol=1e-5)
    found = logits[0] >= 0
    truth = np.transpose(ball(1)[1], (2, 1, 0)) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_a_stopped_training_goes_on_bit_exactly(folders: Any, tmp_path: Path) -> None:
    settings = replace(SETTINGS, augment=True)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    trained(folders, whole, settings)
    beats = iter(range(10**6))
    stopped = trained(folders, parts, settings, should_stop=lambda: next(beats) > 30)
    assert isinstance(stopped[-1], Finished)
    assert stopped[-1].reason == "cancelled"
    trained(folders, parts, settings, resume=True)
    a, b = (load_checkpoint(p).model.state_dict() for p in (whole, parts))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_five_volumes_keep_whole_ones_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for i in range(2, 6):
        for folder, pixels in zip(folders, ball(i), strict=True):
            nib.save(nib.Nifti1Image(pixels, AFFINE), folder / f"case{i}.nii.gz")
    out = tmp_path / "net.safetensors"
    trained(folders, out, replace(SETTINGS, epochs=1))
    assert read_card(out).provenance["split"].startswith("1 of 6 pairs")


def test_what_does_not_fit_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    flat = replace(SETTINGS, options={"width": 0.1, "levels": 1})
    with pytest.raises(InputError, match="ndim=3"):
        with_patch(flat)
    bare = replace(SETTINGS, preprocessing=Preprocessing())
    assert with_patch(bare).preprocessing.patch == (64, 96, 96)
    sized = replace(SETTINGS, preprocessing=replace(SETTINGS.preprocessing, size=64))
    with pytest.raises(InputError, match="size=64"):
        trained(folders, tmp_path / "net.safetensors", sized)
    assert Slice(0, 0) in scanned(folders).slices


def test_the_check_learns_one_patch_by_heart(folders: tuple[Path, Path]) -> None:
    """Of a 3D model: a patch that holds the class, drawn once."""
    settings = replace(SETTINGS, lr=0.02, optimizer="adamw")
    events = [e for e in overfit(settings, FolderSource(*folders), device="cpu", steps=60) if e]
    started, done = events[0], events[-1]
    assert isinstance(started, Started)
    assert started.notes[0].endswith(".nii.gz, one patch of 6 x 8 x 8 voxels")
    assert isinstance(done, OverfitDone)
    assert done.verdict == "learns", done.text
    assert done.last_loss < done.first_loss
    still = replace(settings, lr=1e-9)
    (*_, stuck) = overfit(still, FolderSource(*folders), device="cpu", steps=20)
    assert isinstance(stuck, OverfitDone)
    assert stuck.verdict == "stuck"


def test_a_3d_model_is_evaluated_over_volumes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Against counts by hand from MONAI's windows over the whole volume."""
    out = tmp_path / "net.safetensors"
    trained(folders, out, replace(SETTINGS, epochs=4))
    names = sorted(p.name for p in folders[0].iterdir())
    result = evaluate(out, [(folders[0] / n, folders[1] / n) for n in names], "cpu")
    model, expected = load_checkpoint(out).model.eval(), []
    for name in names:
        volume = read_image(folders[0] / name)
        turn = tuple(slice(None, None, -1 if f else 1) for f in volume.flips)
        x = torch.from_numpy(np.clip(volume.view / 100, 0, 1)[turn].copy())[None, None].float()
        with torch.no_grad():
            logits = sliding_window_inference(x, (6, 8, 8), 1, model, 0.25, "gaussian")[0, 0]
        found = logits.numpy()[turn] >= 0
        mask = nib.load(folders[1] / name).get_fdata().transpose(2, 1, 0) > 0
        expected.append(2 * (found & mask).sum() / (found.sum() + mask.sum()))
    assert [row["dice"] for row in result["per_image"]] == pytest.approx(expected, abs=1e-4)
    assert 0 < result["dice"] < 1
    assert result["n"] == 2
