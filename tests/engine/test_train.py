"""Training: bit-exact resume, stopping, early stop, strokes, what is refused and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import EpochDone, Finished, ImageRef, Preview, Started
from napari_attnseg.engine.data import FolderSource, LayerSource
from napari_attnseg.engine.learner import Learner, step_factor
from napari_attnseg.engine.train import train
from napari_attnseg.engine.trainer_state import state_path
from napari_attnseg.errors import CheckpointError, EngineError, ExportError, InputError
from napari_attnseg.models.checkpoint import load_checkpoint
from napari_attnseg.settings import Preprocessing, TrainSettings

QUICK = TrainSettings(
    options={"width": 0.125, "stride": 8},
    preprocessing=Preprocessing(intensity="unit"),
    epochs=2,
    batch=4,
    lr=3e-3,
    optimizer="adamw",
    schedule="onecycle",
    loss="dicece",
    gamma_start=1.0,
    gamma_lr_factor=10.0,
    rule="authors",
    threshold=0.1,
    threshold_draw="quantile",
    crop=32,
    augment=True,
)


def discs(rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with three bright discs, and its mask."""
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), bool)
    for _ in range(3):
        cy, cx = rng.integers(10, side - 10, 2)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < rng.integers(20, 80)
    image = 60 + 120 * mask + rng.normal(0, 12, mask.shape)
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for k in range(12):
        image, mask = discs(rng)
        Image.fromarray(image).save(tmp_path / "images" / f"{k:02}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k:02}.png")
    return FolderSource(tmp_path / "images", tmp_path / "masks")


def fresh(source: FolderSource) -> FolderSource:
    return FolderSource(source.images, source.masks)


def layer(folder: Path, image: np.ndarray, labels: np.ndarray) -> LayerSource:
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    ref = ImageRef("k", str(folder / "image.npy"))
    return LayerSource(ref, folder / "labels.npy", sparse=True)


def everything(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def same(first: Path, second: Path) -> bool:
    a, b = everything(first), everything(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_tells_what_it_does_and_writes_a_loadable_model(
    folder: FolderSource, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "model.safetensors"
    events = [
        e
        for e in train(QUICK, folder, out, device="cpu", command="napari-attnseg train", title="T")
        if e is not None
    ]
    assert isinstance(events[0], Started)
    assert events[0].total == 2
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [1, 2]
    assert events[1].best
    assert events[1].validation.keys() >= {"dice", "iou"}
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "done"
    card = load_checkpoint(out).card
    assert card.title == "T"
    assert card.provenance["command"] == "napari-attnseg train"
    assert card.provenance["seed"] == 0
    assert card.provenance["settings"]["crop"] == 32
    assert "12 pairs" in card.provenance["split"]
    assert 0 < card.tuning.get("threshold") < 1  # the median step, as thresholds were drawn
    assert card.metrics["validation"]["dice"] >= 0
    assert str(tmp_path) not in str(card.to_json())


@pytest.mark.parametrize("stop_after", [3, 4, 47, 61, 80])
def test_stopped_anywhere_and_resumed_gives_the_same_bits(
    folder: FolderSource, tmp_path: Path, stop_after: int
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    for _ in train(QUICK, fresh(folder), whole, device="cpu"):
        pass
    stream = train(QUICK, fresh(folder), parts, device="cpu")
    for count, event in enumerate(stream):
        if isinstance(event, Finished):
            pytest.fail(f"finished before heartbeat {stop_after}; stop earlier")
        if count == 16 + stop_after:  # beyond reading the files
            break
    stream.close()
    torch.manual_seed(987)  # whoever uses random numbers meanwhile must not matter
    torch.rand(5)
    events = list(train(QUICK, fresh(folder), parts, device="cpu", resume=True))
    assert isinstance(events[-1], Finished)
    assert same(state_path(whole), state_path(parts))
    assert same(whole, parts)
    assert read_card(whole).tuning == read_card(parts).tuning


def test_another_seed_gives_other_weights(folder: FolderSource, tmp_path: Path) -> None:
    once = replace(QUICK, epochs=1)
    for seed in (0, 1):
        for _ in train(replace(once, seed=seed), fresh(folder), tmp_path / f"{seed}.safetensors"):
            pass
    assert not same(tmp_path / "0.safetensors", tmp_path / "1.safetensors")


def test_resuming_with_other_settings_is_refused_by_name(
    folder: FolderSource, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    for _ in train(replace(QUICK, epochs=1), folder, out):
        pass
    with pytest.raises(CheckpointError, match=r"lr was 0\.003"):
        list(train(replace(QUICK, lr=1e-5), fresh(folder), out, resume=True))
    with pytest.raises(CheckpointError, match="no resume state"):
        list(train(QUICK, fresh(folder), tmp_path / "other.safetensors", resume=True))
    state_path(out).write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="damaged"):
        list(train(QUICK, fresh(folder), out, resume=True))


def test_more_epochs_may_be_asked_for_later(folder: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    for _ in train(replace(QUICK, epochs=1), folder, out):
        pass
    events = list(train(QUICK, fresh(folder), out, resume=True))
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [2]


def test_should_stop_ends_the_stream_and_keeps_a_model(
    folder: FolderSource, tmp_path: Path
) -> None:
    out, asked = tmp_path / "m.safetensors", []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 10

    last = list(train(QUICK, folder, out, should_stop=should_stop))[-1]
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"
    assert load_checkpoint(out).card.metrics == {}  # never validated, but there
    assert state_path(out).exists()


def test_heartbeats_come_more_often_than_twice_a_second(
    folder: FolderSource, tmp_path: Path
) -> None:
    """Full width at the crop of the default recipe: the gaps bound the latency of Cancel."""
    settings = replace(
        QUICK, options={"width": 1.0, "stride": 8}, batch=4, crop=64, epochs=1, validation=0.1
    )
    gaps, before = [], time.perf_counter()
    stream = train(settings, folder, tmp_path / "m.safetensors")
    for count, _ in enumerate(stream):
        gaps.append(time.perf_counter() - before)
        before = time.perf_counter()
        if count > 60:
            break
    stream.close()
    assert float(np.median(gaps)) < 0.5
    assert time.perf_counter() - before < 2.0  # closing saves model and state


def test_early_stopping_gives_its_reason(folder: FolderSource, tmp_path: Path) -> None:
    still = replace(QUICK, lr=0.0, epochs=9, patience=2)
    events = list(train(still, folder, tmp_path / "m.safetensors"))
    epochs = [e for e in events if isinstance(e, EpochDone)]
    best = max(e.epoch for e in epochs if e.best)
    assert len(epochs) == best + 2 < 9
    assert events[-1].reason.startswith("early stop: validation Dice has not risen for 2 epochs")
    assert f"in epoch {best}" in events[-1].reason


def test_the_best_model_is_kept_not_the_last(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step size explodes after the first epoch: the file must hold the first epoch's model."""
    import napari_attnseg.engine.learner as module

    monkeypatch.setattr(module, "step_factor", lambda schedule, at: 1.0 if at < 0.34 else 300.0)
    out = tmp_path / "m.safetensors"
    events = list(train(replace(QUICK, epochs=3, threshold_draw="fixed"), folder, out))
    epochs = [e for e in events if isinstance(e, EpochDone)]
    best = max((e for e in epochs if e.best), key=lambda e: e.epoch)
    assert best.epoch < 3
    card = read_card(out)
    assert card.provenance["epoch"] == best.epoch
    assert card.metrics["validation"]["dice"] == best.validation["dice"]


def test_a_loss_that_is_no_number_stops_with_advice_and_keeps_the_best(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.safetensors"
    for _ in train(replace(QUICK, epochs=1), folder, out):
        pass
    kept, state = out.read_bytes(), state_path(out).read_bytes()
    nan: Callable[..., torch.Tensor] = lambda logits, target, weights: logits.sum() * float("nan")  # noqa: E731
    monkeypatch.setitem(
        __import__("napari_attnseg.engine.losses").engine.losses.LOSSES, "dicece", nan
    )
    with pytest.raises(EngineError, match="smaller lr"):
        list(train(QUICK, fresh(folder), out, resume=True))
    assert out.read_bytes() == kept
    assert state_path(out).read_bytes() == state


def test_strokes_on_one_image_find_the_discs(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    image, mask = discs(rng, 96)
    labels = np.zeros((1, 96, 96), np.uint8)
    labels[0, ::12] = np.where(mask[::12], 2, 1)  # a few scan lines, the rest unlabelled
    settings = replace(QUICK, sparse=True, epochs=10, options={"width": 0.25, "stride": 8})
    asked = tmp_path / "preview.npy"
    events = list(
        train(
            settings,
            layer(tmp_path, image[None], labels),
            tmp_path / "m.safetensors",
            preview=lambda: (0, asked),
        )
    )
    assert "training pixels" in " ".join(events_of(events, Started)[0].notes)
    previews = events_of(events, Preview)
    assert len(previews) >= 10
    assert previews[-1].z == 0
    found = np.load(asked, allow_pickle=False)
    assert found.shape == (96, 96)
    assert found.dtype == np.float32
    guess = found >= 0.5
    assert 2 * (guess & mask).sum() / (guess.sum() + mask.sum()) > 0.7


def events_of(events: list, kind: type) -> list:
    return [e for e in events if isinstance(e, kind)]


def test_a_preview_from_folders_brings_the_image_it_belongs_to(
    folder: FolderSource, tmp_path: Path
) -> None:
    asked = tmp_path / "preview.npy"
    stream = train(
        replace(QUICK, epochs=1), folder, tmp_path / "m.safetensors", preview=lambda: (-1, asked)
    )
    assert events_of(list(stream), Preview)
    shown = np.load(tmp_path / "preview_image.npy", allow_pickle=False)
    assert shown.shape == np.load(asked, allow_pickle=False).shape
    files = [np.asarray(Image.open(p)) for p in folder.images.iterdir()]
    assert any(np.array_equal(shown, f) for f in files)


def test_strokes_painted_meanwhile_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    image, mask = discs(rng, 64)
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0, ::12] = np.where(mask[::12], 2, 1)
    source = layer(tmp_path, np.stack([image, image]), labels)
    seen = []
    for event in train(replace(QUICK, epochs=3, sparse=True), source, tmp_path / "m.safetensors"):
        if isinstance(event, EpochDone):
            seen.append(len(source.slices))
            labels[1, ::12] = labels[0, ::12]
            np.save(tmp_path / "fresh.npy", labels)
            (tmp_path / "fresh.npy").replace(tmp_path / "labels.npy")
    assert seen == [1, 2, 2]


def test_several_classes_report_each(tmp_path: Path, folder: FolderSource) -> None:
    for path in folder.masks.iterdir():
        mask = np.asarray(Image.open(path)).astype(np.uint8)
        mask[:, :32] *= 2
        Image.fromarray(mask).save(path)
    settings = replace(QUICK, epochs=1, class_names=("background", "right", "left"))
    events = list(train(settings, folder, tmp_path / "m.safetensors"))
    assert {"dice_right", "dice_left"} <= events_of(events, EpochDone)[0].validation.keys()
    assert load_checkpoint(tmp_path / "m.safetensors").model.spec.classes == 3


def test_the_papers_own_recipe_runs_at_its_working_size(
    folder: FolderSource, tmp_path: Path
) -> None:
    from napari_attnseg.settings import RECIPES

    paper = replace(
        RECIPES["smooth-attention-paper"],
        epochs=1,
        options={"width": 0.125, "key_channels": None},
        preprocessing=replace(RECIPES["smooth-attention-paper"].preprocessing, size=64),
    )
    events = list(train(paper, folder, tmp_path / "m.safetensors"))
    assert events_of(events, EpochDone)[0].gamma != 0.0
    assert read_card(tmp_path / "m.safetensors").tuning.get("threshold") == 0.2


def test_gamma_has_its_own_start_step_size_and_no_decay() -> None:
    learner = Learner(replace(QUICK, weight_decay=0.3, gamma_start=1.5), torch.device("cpu"))
    assert learner.gamma == 1.5
    rest, own = learner.optimizer.param_groups
    assert (own["factor"], own["weight_decay"], len(own["params"])) == (10.0, 0.0, 1)
    assert rest["weight_decay"] == 0.3
    count = sum(len(g["params"]) for g in learner.optimizer.param_groups)
    assert count == len(list(learner.model.parameters()))


def test_schedules_rise_and_fall_where_they_should() -> None:
    assert step_factor("none", 0.7) == 1.0
    assert step_factor("onecycle", 0.0) == pytest.approx(0.04)
    assert step_factor("onecycle", 0.25) == pytest.approx(1.0)
    assert step_factor("onecycle", 1.0) == pytest.approx(0.001)
    assert step_factor("cosine", 0.5) == pytest.approx(0.5005)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "wrong"}, "got loss wrong"),
        ({"optimizer": "lion"}, "got optimizer lion"),
        ({"rule": "wrong"}, "wrong"),
        ({"model": "wrong"}, "got model 'wrong'"),
        ({"options": {"width": 0.125, "depth": 3}}, "got option depth"),
    ],
)
def test_settings_that_nothing_can_follow(
    folder: FolderSource, tmp_path: Path, change: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        list(train(replace(QUICK, **change), folder, tmp_path / "m.safetensors"))
    assert not (tmp_path / "m.safetensors").exists()


def test_output_must_be_a_checkpoint_name(folder: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.pt"):
        next(iter(train(QUICK, folder, tmp_path / "m.pt")))


def test_no_space_for_the_state(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_attnseg.engine.trainer_state.save_file", full)
    with pytest.raises(ExportError, match="No space left"):
        list(train(replace(QUICK, epochs=1), folder, tmp_path / "m.safetensors"))
    assert (tmp_path / "m.safetensors").exists()  # the best model was written before
