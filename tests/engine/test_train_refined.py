"""A refinement is trained on top of a trained model: what it takes over, keeps and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import EpochDone, Started
from napari_attnseg.engine.coarse import refining
from napari_attnseg.engine.data import FolderSource
from napari_attnseg.engine.learner import build_model
from napari_attnseg.engine.train import train
from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.models.checkpoint import load_checkpoint
from napari_attnseg.models.refined import RefinedModel
from napari_attnseg.settings import Preprocessing, TrainSettings, recipe

SMALL = {"width": 0.125, "levels": 2, "iterations": 3}


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for k in range(10):
        mask = np.zeros((40, 48), bool)
        mask[5 : 15 + k, 8 : 20 + k] = True
        image = 60 + 120 * mask + rng.normal(0, 12, mask.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / f"images/{k}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"masks/{k}.png")
    return FolderSource(tmp_path / "images", tmp_path / "masks")


def wanted(coarse: Path, refine: str = "cspn", fine_tune: bool = False) -> TrainSettings:
    quick = replace(recipe("refinement"), options=SMALL, epochs=3, batch=4, crop=32, lr=3e-3)
    return refining(quick, coarse, refine, fine_tune)


def weights(path: Path, part: str) -> dict[str, torch.Tensor]:
    state = load_checkpoint(path).model.state_dict()
    return {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}


def test_everything_about_the_image_comes_from_the_coarse_card(tiny_checkpoint: Path) -> None:
    settings, card = wanted(tiny_checkpoint, "dyspn"), read_card(tiny_checkpoint)
    assert settings.preprocessing == card.preprocessing == Preprocessing()
    assert settings.class_names == ("background", "nuclei")
    assert (settings.threshold, settings.rule) == (0.1, "authors")
    assert (settings.threshold_draw, settings.options["refine"]) == ("fixed", "dyspn")
    assert (settings.lr, settings.options["iterations"]) == (3e-3, 3)
    assert TrainSettings.from_json(settings.to_json()) == settings


def test_the_coarse_weights_and_threshold_are_taken_over(tiny_checkpoint: Path) -> None:
    notes: list[str] = []
    model = build_model(wanted(tiny_checkpoint), notes).eval()
    assert isinstance(model, RefinedModel)
    coarse = load_checkpoint(tiny_checkpoint).model
    x = torch.rand(1, 1, 40, 56)
    with torch.no_grad():
        assert torch.equal(model(x, iterations=0), coarse(x).clamp(-6, 6))
    assert notes == ["coarse model tiny.safetensors: tiny, frozen"]


@pytest.mark.parametrize("refine", ["cspn", "dyspn"])
def test_a_refinement_learns_and_its_coarse_model_stays(
    refine: str, folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = wanted(tiny_checkpoint, refine)
    out = tmp_path / "refined.safetensors"
    events = list(train(settings, folder, out, device="cpu"))
    losses = [e.loss for e in events if isinstance(e, EpochDone)]
    assert losses[-1] < 0.995 * losses[0]  # of a blind coarse model little can be made
    started = next(e for e in events if isinstance(e, Started))
    assert "coarse model tiny.safetensors: tiny, frozen" in started.notes
    before = load_checkpoint(tiny_checkpoint).model.state_dict()
    after = weights(out, "coarse.")
    assert before.keys() == after.keys()
    assert [k for k, v in before.items() if not torch.equal(after[k], v)] == []
    card = read_card(out)
    assert card.spec["options"]["refine"] == refine
    assert card.tuning.values == {"gamma": 1.0, "iterations": 3, "rule": "authors"} | {
        "threshold": 0.1
    }
    assert card.provenance["coarse"] == {
        "name": "tiny",
        "digest": read_card(tiny_checkpoint).digest,
    }


def test_fine_tuning_moves_the_coarse_model(
    folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "refined.safetensors"
    settings = replace(wanted(tiny_checkpoint, fine_tune=True), epochs=1)
    list(train(settings, folder, out, device="cpu"))
    before = load_checkpoint(tiny_checkpoint).model.state_dict()
    after = weights(out, "coarse.")
    assert not any(torch.equal(after[k], v) for k, v in before.items() if k.endswith("0.weight"))


@pytest.mark.parametrize("refine", ["none", "off", "cspn_fold", "dyspn_fold"])
def test_controls_are_trained_as_refinements_are(
    refine: str, folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "control.safetensors"
    settings = replace(wanted(tiny_checkpoint, refine, refine == "off"), epochs=1, batch=16)
    list(train(settings, folder, out, device="cpu"))
    list(train(replace(settings, epochs=2), folder, out, device="cpu", resume=True))
    assert read_card(out).spec["options"]["refine"] == refine
    fresh, learnt = build_model(settings).state_dict(), load_checkpoint(out).model.state_dict()
    moved = {k.split(".")[0] for k, v in learnt.items() if not torch.equal(v, fresh[k])}
    assert "coarse" in moved if refine == "off" else moved == {"guidance"}


@pytest.mark.parametrize("fine_tune", [False, True])
def test_stopped_and_resumed_is_as_never_stopped(
    fine_tune: bool, folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(wanted(tiny_checkpoint, "dyspn", fine_tune), epochs=2, batch=16)
    whole, parts = (tmp_path / f"{n}.safetensors" for n in ("whole", "parts"))
    list(train(settings, folder, whole, device="cpu"))
    again = FolderSource(tmp_path / "images", tmp_path / "masks")
    beats = 0
    stream = train(settings, again, parts, device="cpu")
    for event in stream:
        beats += event is None
        if beats > 24:
            break
    stream.close()
    list(train(settings, again, parts, device="cpu", resume=True))
    states = [p.with_name(f"{p.name}.state.safetensors") for p in (whole, parts)]
    one, other = (_tensors(path) for path in states)
    assert one.keys() == other.keys()
    assert all(torch.equal(other[k], v) for k, v in one.items())


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_what_cannot_be_refined_is_refused(
    folder: FolderSource, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="without a coarse model"):
        build_model(recipe("refinement"))
    with pytest.raises(InputError, match="refines none"):
        build_model(replace(recipe("threshold-matters"), coarse=str(tiny_checkpoint)))
    settings = replace(wanted(tiny_checkpoint), epochs=1)
    with pytest.raises(InputError, match="the coarse model itself"):
        next(train(settings, folder, tiny_checkpoint))
    other = replace(settings, options={**settings.options, "coarse": "unet"})
    with pytest.raises(CheckpointError, match="another model than the one to refine"):
        build_model(other)
    out = tmp_path / "refined.safetensors"
    list(train(settings, folder, out, device="cpu"))
    with pytest.raises(InputError, match="refined already"):
        wanted(out)
