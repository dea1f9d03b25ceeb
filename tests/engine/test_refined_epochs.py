"""Batch normalisation goes on learning in every epoch of a refiner's training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_attnseg.control.messages import EpochDone
from napari_attnseg.engine.coarse import refining
from napari_attnseg.engine.data import FolderSource
from napari_attnseg.engine.train import train
from napari_attnseg.models.guidance import Guidance
from napari_attnseg.models.refined import RefinedModel
from napari_attnseg.settings import recipe

EPOCHS = 3


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for k in range(6):
        mask = np.zeros((32, 40), bool)
        mask[5 : 15 + k, 8 : 20 + k] = True
        image = 60 + 120 * mask + rng.normal(0, 12, mask.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / f"images/{k}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"masks/{k}.png")
    return FolderSource(tmp_path / "images", tmp_path / "masks")


def watched(
    monkeypatch: pytest.MonkeyPatch, coarse: Path, folder: FolderSource, out: Path, refine: str
) -> tuple[list[bool], list[torch.Tensor]]:
    """Of every epoch: whether the guidance began it in training mode, and the running mean of
    its first normalisation at the end."""
    seen: list[tuple[bool, torch.Tensor]] = []
    forward = Guidance.forward

    def watch(self: Guidance, *given: torch.Tensor):
        result = forward(self, *given)
        mean = next(b for n, b in self.named_buffers() if n.endswith("running_mean"))
        seen.append((self.training, mean.detach().clone()))
        return result

    monkeypatch.setattr(Guidance, "forward", watch)
    options = {"width": 0.125, "levels": 2, "iterations": 2}
    quick = replace(recipe("refinement"), options=options, epochs=EPOCHS, batch=4, crop=32)
    modes, means = [], []
    for event in train(refining(quick, coarse, refine), folder, out, device="cpu"):
        if isinstance(event, EpochDone):
            modes.append(seen[0][0])
            means.append(seen[-1][1])
            seen.clear()
    return modes, means


def learns_on(modes: list[bool], means: list[torch.Tensor]) -> bool:
    moved = [not torch.equal(a, b) for a, b in pairwise(means)]
    assert len(modes) == len(means) == EPOCHS
    return all(modes) and all(moved)


@pytest.mark.parametrize("refine", ["cspn", "dyspn"])
def test_every_epoch_begins_in_training_mode(
    refine: str, folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "refined.safetensors"
    assert learns_on(*watched(monkeypatch, tiny_checkpoint, folder, out, refine))


def test_a_loop_that_never_goes_back_to_training_fails(
    folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    """Evaluation mode after the first epoch, and nobody undoes it."""
    usual = RefinedModel.train

    def stuck(self: RefinedModel, mode: bool = True) -> RefinedModel:
        if not mode:
            self.was_evaluated = True
        return usual(self, mode and not getattr(self, "was_evaluated", False))

    monkeypatch.setattr(RefinedModel, "train", stuck)
    out = tmp_path / "refined.safetensors"
    modes, means = watched(monkeypatch, tiny_checkpoint, folder, out, "cspn")
    assert modes == [True, False, False]
    assert not learns_on(modes, means)
