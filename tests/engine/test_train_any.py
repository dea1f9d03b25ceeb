"""Training whatever model: no attention, an own regulariser, SGD, class weights, honest names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain_model import Plain, plain_of_test
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import EpochDone, Finished, ImageRef, Started
from napari_attnseg.engine.data import FolderSource, LayerSource
from napari_attnseg.engine.learner import Learner, build_model
from napari_attnseg.engine.optimizers import build_optimizer, gammas
from napari_attnseg.engine.precision import Precision
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.train import train
from napari_attnseg.engine.trainer_state import state_path
from napari_attnseg.engine.validate import validate
from napari_attnseg.errors import InputError
from napari_attnseg.models import base
from napari_attnseg.settings import (
    IMAGENET_MEAN,
    Preprocessing,
    TrainSettings,
    with_encoder_normalisation,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def known_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base._REGISTRY, "plain_of_test", plain_of_test)


QUICK = TrainSettings(
    model="plain_of_test",
    preprocessing=Preprocessing(intensity="unit", size=32),
    epochs=2,
    batch=4,
    lr=0.05,
    optimizer="sgd",
    nesterov=True,
    weight_decay=1e-3,
    schedule="cosine",
    class_weights="balanced",
    regulariser_weight=0.1,
    augment=True,
    augmentation="turns",
)


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
        Image.fromarray(mask).save(tmp_path / f"masks/{k}.png")
    return FolderSource(tmp_path / "images", tmp_path / "masks")


def fresh(source: FolderSource) -> FolderSource:
    return FolderSource(source.images, source.masks)


def events_of(events: list, kind: type) -> list:
    return [e for e in events if isinstance(e, kind)]


def same(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def strokes(folder: Path) -> LayerSource:
    y, x = np.mgrid[:48, :48]
    mask = (y - 20) ** 2 + (x - 24) ** 2 < 150
    labels = np.zeros((1, 48, 48), np.uint8)
    labels[0, ::6] = np.where(mask[::6], 2, 1)
    np.save(folder / "image.npy", (mask[None] * 150 + 40).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    return LayerSource(ImageRef("k", str(folder / "image.npy")), folder / "labels.npy", sparse=True)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, 32, 32, generator=generator)
    return images, (images[:, 0] > 0.5).to(torch.int16)


def finish(part: Iterator[None]) -> float:
    try:
        while True:
            next(part)
    except StopIteration as end:
        return float(end.value)


# --- a model without attention --------------------------------------------------------------------


def test_a_model_without_attention_trains_and_predicts(
    folder: FolderSource, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    events = list(train(replace(QUICK, epochs=6, augment=False), folder, out, device="cpu"))
    epochs = events_of(events, EpochDone)
    assert [e.gamma for e in epochs] == [None] * 6
    assert all(e.regulariser is not None and e.regulariser > 0 for e in epochs)
    assert epochs[-1].loss < epochs[0].loss
    assert {
        "dice", "iou", "miou", "precision", "recall", "specificity", "accuracy", "auc",
        "dice_image", "miou_image",
    } <= epochs[-1].validation.keys()  # fmt: skip
    assert read_card(out).tuning.values == {}
    session = Session(out, "cpu")
    session.set_image(np.asarray(Image.open(folder.images / "3.png")))
    assert session.predict().labels.shape == (40, 48)


@pytest.mark.parametrize("stop_after", [1, 5, 11, 17, 26])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_any_optimiser_goes_on_with_the_same_bits(
    folder: FolderSource, tmp_path: Path, stop_after: int, optimizer: str
) -> None:
    settings = replace(QUICK, optimizer=optimizer)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    list(train(settings, fresh(folder), whole, device="cpu"))
    stream = train(settings, fresh(folder), parts, device="cpu")
    count = -1
    for event in stream:
        assert not isinstance(event, Finished)
        count += int(count >= 0 or isinstance(event, Started))
        if count == stop_after:
            break
    stream.close()
    torch.rand(5)
    events = list(train(settings, fresh(folder), parts, device="cpu", resume=True))
    assert isinstance(events[-1], Finished)
    assert same(whole, parts)
    assert same(state_path(whole), state_path(parts))
    names = {name.rsplit(".", 1)[1] for name in load_file(state_path(parts)) if "optimizer" in name}
    assert names == (
        {"momentum_buffer"} if optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    )


def test_sgd_moves_as_its_formula_says() -> None:
    """Two steps of Nesterov momentum with decay on one number, by hand."""
    settings = replace(QUICK, lr=0.1, momentum=0.5, weight_decay=0.2, nesterov=True)
    model = Plain(1, 1, 2)
    optimizer = build_optimizer(model, settings)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    w = float(model.gamma.detach())
    velocity = 0.0
    for slope in (1.0, -3.0):
        optimizer.zero_grad()
        (slope * model.gamma).backward()
        optimizer.step()
        gradient = slope + 0.2 * w
        velocity = 0.5 * velocity + gradient
        w -= 0.1 * (gradient + 0.5 * velocity)
        assert float(model.gamma.detach()) == pytest.approx(w, rel=1e-6)


def test_a_gamma_that_nobody_tunes_is_a_weight_as_any_other() -> None:
    model = build_model(replace(QUICK, gamma_start=9.0))
    assert gammas(model) == []
    assert float(model.gamma.detach()) == pytest.approx(0.7)
    tuned = build_model(TrainSettings(options={"width": 0.125}, gamma_start=9.0))
    assert [float(g.detach()) for g in gammas(tuned)] == [9.0]


# --- the model's own regulariser ------------------------------------------------------------------


def test_the_regulariser_is_added_with_its_weight() -> None:
    losses, own, moved = {}, {}, {}
    for weight in (0.0, 0.5):
        settings = replace(QUICK, regulariser_weight=weight, weight_decay=0.0, momentum=0.0,
                           nesterov=False, class_weights="")  # fmt: skip
        learner = Learner(settings, CPU)
        losses[weight] = finish(learner.learn(*batch(), 0.0, [0]))
        own[weight] = learner.regulariser
        moved[weight] = learner.model.encoder[0].weight.detach().clone()
    assert own[0.0] == own[0.5] is not None
    assert losses[0.5] == pytest.approx(losses[0.0] + 0.5 * own[0.5], rel=1e-5)
    assert not torch.equal(moved[0.0], moved[0.5])  # it has a gradient


def test_a_stop_while_judging_forgets_no_regulariser(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, epochs=1)
    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    (undisturbed,) = events_of(list(train(settings, fresh(folder), whole)), EpochDone)
    with monkeypatch.context() as patch:
        judging: list[bool] = []

        def watched(*parts: Any) -> Any:
            judging.append(True)
            return validate(*parts)

        patch.setattr("napari_attnseg.engine.train.validate", watched)
        list(train(settings, fresh(folder), parted, should_stop=lambda: bool(judging)))
    (resumed,) = events_of(list(train(settings, fresh(folder), parted, resume=True)), EpochDone)
    assert undisturbed.regulariser is not None
    assert resumed.regulariser == undisturbed.regulariser


def test_the_epochs_regulariser_is_the_mean_over_its_steps(
    folder: FolderSource, tmp_path: Path
) -> None:
    found: list[float] = []

    class Watching(Learner):
        def learn(self, *given: Any) -> Any:
            loss = yield from super().learn(*given)
            found.append(float(self.regulariser or 0))
            return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_attnseg.engine.train.Learner", Watching)
        events = list(train(replace(QUICK, epochs=1), folder, tmp_path / "m.safetensors"))
    assert len(found) == 2
    assert events_of(events, EpochDone)[0].regulariser == pytest.approx(np.mean(found))
    state = _head(tmp_path / "m.safetensors")
    assert state["progress"]["history"][0]["regulariser"] == pytest.approx(np.mean(found))


def _head(out: Path) -> dict[str, Any]:
    with safe_open(state_path(out), framework="pt") as file:
        return dict(json.loads(file.metadata()["state"]))


# --- class weights --------------------------------------------------------------------------------


def test_balanced_weights_come_from_the_training_part_alone(
    folder: FolderSource, tmp_path: Path
) -> None:
    seen = []

    class Watching(Learner):
        def weigh(self, counts: np.ndarray) -> None:
            seen.append(counts.copy())
            super().weigh(counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_attnseg.engine.train.Learner", Watching)
        list(train(replace(QUICK, epochs=1), folder, tmp_path / "m.safetensors"))
    text = read_card(tmp_path / "m.safetensors").provenance["split"]
    assert text.startswith("2 of 10 pairs")
    from napari_attnseg.engine.data import split

    training, _, _ = split(folder.slices, 0.2, 0, folder.marked)
    masks = [np.asarray(Image.open(folder.masks / f"{s.pair}.png")) for s in training]
    assert seen[0].tolist() == [sum(int((m == v).sum()) for m in masks) for v in (0, 1)]


def test_balancing_lets_a_rare_class_weigh_as_much_as_the_ground() -> None:
    learner = Learner(replace(QUICK, loss="bce"), CPU)
    learner.weigh(np.array([9000, 1000]))
    logits = torch.zeros(1, 1, 1, 10)
    target = torch.tensor([[[1] + [0] * 9]])
    logits.requires_grad_(True)
    learner.loss(logits, target).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0, 0]) == pytest.approx(-float(logits.grad[0, 0, 0, 1:].sum()))


@pytest.mark.parametrize("bad", [(1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, float("nan")), "rare"])
def test_class_weights_that_make_no_sense(bad: Any) -> None:
    with pytest.raises(InputError, match="class weights"):
        Learner(replace(QUICK, class_weights=bad), CPU)


# --- where figures were measured ------------------------------------------------------------------


def test_a_dice_on_painted_pixels_is_not_called_validation(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    events = list(
        train(replace(QUICK, sparse=True, patience=1, epochs=30, lr=0.0), strokes(tmp_path), out)
    )
    assert {e.measured_on for e in events_of(events, EpochDone)} == {"training pixels"}
    metrics = read_card(out).metrics
    assert set(metrics) == {"training_pixels"}
    assert "dice_training_pixels" in metrics["training_pixels"]
    assert "dice" not in metrics["training_pixels"]
    last = events[-1]
    assert last.summary["measured_on"] == "training pixels"
    assert "validation" not in last.reason


def test_figures_of_kept_back_pairs_are(folder: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    events = list(train(replace(QUICK, epochs=1), folder, out))
    assert events_of(events, EpochDone)[0].measured_on == "validation"
    assert set(read_card(out).metrics) == {"validation"}
    assert events[-1].summary["measured_on"] == "validation"


# --- mixed precision, older states ----------------------------------------------------------------


def test_mixed_precision_is_left_aside_on_a_cpu(folder: FolderSource, tmp_path: Path) -> None:
    outs = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for amp, out in zip((False, True), outs, strict=True):
        events = list(train(replace(QUICK, epochs=1, amp=amp), fresh(folder), out, device="cpu"))
        notes = " ".join(events_of(events, Started)[0].notes)
        assert ("mixed precision is for CUDA" in notes) == amp
    assert same(*outs)
    assert Precision(True, CPU, []).state() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_mixed_precision_on_cuda_scales_and_keeps_its_scale() -> None:
    device = torch.device("cuda")
    learner = Learner(replace(QUICK, amp=True, class_weights=""), device)
    losses = [finish(learner.learn(*batch(), 0.0, [k])) for k in range(20)]
    assert losses[-1] < losses[0]
    state = learner.precision.state()
    other = Precision(True, device, [])
    other.load(state)
    assert other.state() == state


def test_a_state_of_an_older_version_can_be_resumed(folder: FolderSource, tmp_path: Path) -> None:
    """Values that did not exist then have their defaults, with which it was trained."""
    out = tmp_path / "m.safetensors"
    settings = TrainSettings(
        model="plain_of_test", preprocessing=Preprocessing(size=32), epochs=1, batch=4
    )
    list(train(settings, folder, out, device="cpu"))
    head = _head(out)
    for name in ("momentum", "class_weights", "regulariser_weight", "amp", "augmentation"):
        del head["settings"][name]
    for name in ("clahe_clip", "clahe_tiles"):
        del head["settings"]["preprocessing"][name]
    del head["progress"]["regulariser_sum"], head["precision"]
    save_file(load_file(state_path(out)), state_path(out), {"state": json.dumps(head)})
    events = list(train(replace(settings, epochs=2), fresh(folder), out, resume=True))
    assert [e.epoch for e in events_of(events, EpochDone)] == [2]


# --- encoder weights ------------------------------------------------------------------------------


def pretrained(tmp_path: Path) -> TrainSettings:
    settings = TrainSettings(
        options={"width": 0.125, "stride": 8}, epochs=1, crop=32, batch=16,
        preprocessing=Preprocessing(intensity="unit"),
    )  # fmt: skip
    weights = build_model(settings).encoder.state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "resnet.safetensors")
    return replace(settings, encoder_weights=str(tmp_path / "resnet.safetensors"))


def test_encoder_weights_bring_their_normalisation_and_say_so(
    folder: FolderSource, tmp_path: Path
) -> None:
    out, settings = tmp_path / "m.safetensors", pretrained(tmp_path)
    events = list(train(settings, folder, out, device="cpu"))
    notes = " ".join(events_of(events, Started)[0].notes)
    assert "encoder weights resnet.safetensors: " in notes
    assert "tensors loaded" in notes
    pre = read_card(out).preprocessing
    assert pre.mean == pytest.approx((np.mean(IMAGENET_MEAN),), abs=1e-3)  # one channel: grey
    assert pre.std == pytest.approx((0.226,))
    (tmp_path / "resnet.safetensors").unlink()  # a resumed training has its weights already
    more = list(train(replace(settings, epochs=2), fresh(folder), out, resume=True))
    assert "tensors loaded" not in " ".join(events_of(more, Started)[0].notes)


def test_normalisation_that_is_given_stays() -> None:
    three = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    start = TrainSettings(encoder_weights="w.pth", preprocessing=three)
    assert with_encoder_normalisation(start).preprocessing.mean == IMAGENET_MEAN
    for kept in (
        replace(start, encoder_weights=""),
        replace(start, encoder_normalisation="given"),
        replace(start, preprocessing=replace(three, mean=(0.5,) * 3)),
        replace(start, preprocessing=replace(three, std=(0.5,) * 3)),
    ):
        assert with_encoder_normalisation(kept) == kept


def test_a_model_without_such_an_encoder_says_so() -> None:
    with pytest.raises(InputError, match="plain_of_test, which has no encoder that takes"):
        build_model(replace(QUICK, encoder_weights="w.pth"))


# --- the same pixels in training and in prediction ------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_clahe_is_done_alike_in_training_and_in_prediction(
    folder: FolderSource, tmp_path: Path, channels: int
) -> None:
    pre = Preprocessing(
        channels=channels, mean=(0.2,) * channels, std=(0.5,) * channels, size=32, clahe_clip=2.0
    )
    out = tmp_path / "m.safetensors"
    list(train(replace(QUICK, epochs=1, preprocessing=pre), folder, out, device="cpu"))
    session = Session(out, "cpu")
    assert session.card.preprocessing == pre
    for slice_ in folder.slices[:3]:
        session.set_image(folder.pairs[slice_.pair][0])
        assert torch.equal(session._prepare(0)[0], folder.example(slice_).image)
    plain = Session(out, "cpu")
    plain.card = replace(plain.card, preprocessing=replace(pre, clahe_clip=0.0))
    plain.set_image(folder.pairs[0][0])
    assert not torch.equal(plain._prepare(0)[0], folder.example(folder.slices[0]).image)


# --- broken-off steps -----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_step_broken_off_leaves_nothing(parts: int) -> None:
    learner = Learner(QUICK, CPU)
    finish(learner.learn(*batch(), 0.0, [0]))
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    part = learner.learn(*batch(), 0.0, [1])
    for _ in range(parts):
        next(part)
    part.close()
    after = learner.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert int(before["encoder.1.num_batches_tracked"]) == 1
