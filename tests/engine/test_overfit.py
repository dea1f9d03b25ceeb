"""The overfit check: what can learn one image does, what cannot is told, and it can be stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.control.checks import Overfit, OverfitDone, OverfitStep
from napari_attnseg.control.messages import ImageRef, Started, decode, encode
from napari_attnseg.engine.data import FolderSource, LayerSource
from napari_attnseg.engine.overfit import overfit
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing, TrainSettings

SMALL = TrainSettings(
    options={"width": 0.25, "stride": 8},
    preprocessing=Preprocessing(intensity="unit"),
    lr=1e-2,
    optimizer="adamw",
    loss="dicece",
    crop=32,
)


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    """Four noisy images; in the third alone the mask is large."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    y, x = np.mgrid[:40, :48]
    for k in range(4):
        radius = 150 if k == 2 else 9
        mask = (y - 20) ** 2 + (x - 24) ** 2 < radius
        noise = np.random.default_rng(k).normal(0, 5, mask.shape)
        image = (60 + 130 * mask + noise).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{k}.png")
    return FolderSource(tmp_path / "images", tmp_path / "masks")


def test_a_sound_setting_learns_one_image(folder: FolderSource, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    events = [e for e in overfit(SMALL, folder, device="cpu", steps=150) if e is not None]
    started, done = events[0], events[-1]
    assert isinstance(started, Started)
    assert started.notes[0] == "image: 2.png"  # the one with most foreground
    assert isinstance(done, OverfitDone)
    assert done.verdict == "learns", done.text
    assert done.dice >= 0.9
    assert done.text.startswith("learns: Dice 0.9")
    steps = [e for e in events if isinstance(e, OverfitStep)]
    assert [e.step for e in steps] == list(range(1, done.steps + 1))
    assert done.steps < 150  # it ends when the image is known by heart
    assert steps[0].loss == done.first_loss > done.last_loss
    assert sorted(tmp_path.rglob("*")) == before


def test_a_step_size_of_nothing_is_told(folder: FolderSource) -> None:
    events = list(overfit(replace(SMALL, lr=1e-9), folder, device="cpu", steps=20))
    done = events[-1]
    assert isinstance(done, OverfitDone)
    assert done.verdict == "stuck"
    assert done.steps == 20
    assert "another lr than 1e-09" in done.text


def test_a_falling_loss_without_the_dice_is_slow(folder: FolderSource) -> None:
    done = None
    for steps in range(6, 60, 6):  # the first count at which the loss has fallen far enough
        done = list(overfit(replace(SMALL, lr=2e-3), folder, device="cpu", steps=steps))[-1]
        assert isinstance(done, OverfitDone)
        assert done.verdict == "slow", done.text
        if done.text.startswith("learns slowly"):
            break
        assert done.text.startswith("not yet: "), done.text
    assert isinstance(done, OverfitDone)
    assert done.verdict == "slow"
    assert done.last_loss < 0.8 * done.first_loss
    assert "more steps" in done.text


def test_few_steps_are_no_verdict(folder: FolderSource) -> None:
    done = list(overfit(replace(SMALL, lr=1e-9), folder, device="cpu", steps=3))[-1]
    assert isinstance(done, OverfitDone)
    assert done.verdict == "slow"
    assert done.text.startswith("not yet: too few steps to tell; give more --check-steps (Dice 0.")
    assert "as the mean of the last 3" in done.text


def test_a_loss_that_still_falls_is_no_verdict(folder: FolderSource) -> None:
    done = list(overfit(replace(SMALL, lr=6e-4), folder, device="cpu", steps=24))[-1]
    assert isinstance(done, OverfitDone)
    assert done.last_loss >= 0.8 * done.first_loss
    assert done.text.startswith("not yet: the loss is still falling; give more --check-steps (")


def test_it_can_be_stopped_and_says_nothing_then(folder: FolderSource) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    events = list(overfit(SMALL, folder, device="cpu", steps=50, should_stop=stop))
    assert not any(isinstance(e, OverfitDone) for e in events)
    assert sum(isinstance(e, OverfitStep) for e in events) == 3
    stream = overfit(SMALL, folder, device="cpu", steps=50)
    next(stream)
    stream.close()


def test_strokes_on_a_layer_serve_as_well(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :48]
    mask = (y - 20) ** 2 + (x - 24) ** 2 < 150
    labels = np.zeros((2, 48, 48), np.uint8)
    labels[1, ::6] = np.where(mask[::6], 2, 1)
    np.save(tmp_path / "image.npy", np.stack([mask, mask]).astype(np.uint8) * 150 + 40)
    np.save(tmp_path / "labels.npy", labels)
    ref = ImageRef("k", str(tmp_path / "image.npy"))
    source = LayerSource(ref, tmp_path / "labels.npy", sparse=True)
    events = list(overfit(SMALL, source, device="cpu", steps=150))
    assert (
        next(e for e in events if isinstance(e, Started)).notes[0]
        == "image: the image layer, slice 1"
    )
    assert isinstance(events[-1], OverfitDone)
    assert events[-1].verdict == "learns", events[-1].text


def test_no_steps_are_refused(folder: FolderSource) -> None:
    with pytest.raises(InputError, match="got 0 steps"):
        list(overfit(SMALL, folder, steps=0))


def test_its_messages_travel() -> None:
    for message in (
        Overfit(7, SMALL, images="a", masks="b", steps=9),
        Overfit(8, SMALL, image=ImageRef("k", "i.npy"), labels="l.npy"),
        OverfitStep(7, 3, 9, 0.5, 0.25),
        OverfitDone(7, "slow", "learns slowly", 0.7, 0.5, 0.4, 9, 1.5),
    ):
        assert decode(encode(message)) == message
