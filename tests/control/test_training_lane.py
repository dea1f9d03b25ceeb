"""The training lane with the real trainer in this process: start, watch, stop, resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.cards import read_card
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.training import TrainingController
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RECIPES, TrainSettings

SETTINGS = replace(
    RECIPES["threshold-matters"],
    options={"width": 0.125, "stride": 8},
    epochs=2,
    batch=4,
    crop=None,
    patience=0,
)
SHAPE = (2, 64, 64)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Bright squares on noise, and where they are."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 10:30, 10:30] = labels[:, 40:55, 35:60] = 1
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    return (labels + noise).astype(np.float32), labels


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[TrainingController]:
    client, scratch = InProcessClient(), Scratch(tmp_path / "scratch")
    yield TrainingController(client, scratch)
    client.close()
    scratch.close()


SIGNALS = (
    "started",
    "epoch_done",
    "preview",
    "note",
    "finished",
    "failed",
    "engine_lost",
    "busy_changed",
)


class Seen(dict[str, list[tuple[Any, ...]]]):
    def __init__(self, lane: TrainingController) -> None:
        super().__init__({name: [] for name in SIGNALS})
        for name in SIGNALS:
            getattr(lane, name).connect(
                lambda *what, name=name: self[name].append(what), check_nargs=False
            )


def start(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], out: Path, **changes: Any
) -> None:
    image, labels = blobs
    settings: TrainSettings = replace(SETTINGS, **changes)
    lane.start_layers(settings, out, lane.open_image(image), labels, device="cpu", preview_z=1)


def test_layers_train_to_a_checkpoint_with_previews(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    seen = Seen(lane)
    start(lane, blobs, tmp_path / "mine.safetensors")
    assert not seen["failed"], seen["failed"]
    assert [e.epoch for (e,) in seen["epoch_done"]] == [1, 2]
    assert {"dice", "iou"} <= set(seen["epoch_done"][-1][0].validation)
    event, probability = seen["preview"][-1]
    assert event.z == 1
    assert probability.shape == SHAPE[1:]
    assert 0 <= probability.min() <= probability.max() <= 1
    ((finished,),) = seen["finished"]
    assert finished.reason == "done"
    assert read_card(finished.outputs["checkpoint"]).class_names == SETTINGS.class_names
    assert [b for (b,) in seen["busy_changed"]] == [True, False]


def test_the_preview_follows_the_seen_slice(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    seen = Seen(lane)
    lane.epoch_done.connect(lambda e: lane.set_preview(0))
    start(lane, blobs, tmp_path / "mine.safetensors", epochs=3)
    assert seen["preview"][-1][0].z == 0


def test_stop_keeps_the_model_and_resume_ends_where_an_unbroken_run_ends(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    seen = Seen(lane)
    start(lane, blobs, tmp_path / "whole.safetensors", epochs=3)
    once: list[int] = []
    lane.epoch_done.connect(lambda e: once or (once.append(1), lane.stop()))
    broken = tmp_path / "broken.safetensors"
    start(lane, blobs, broken, epochs=3)
    assert seen["finished"][-1][0].reason == "cancelled"
    assert broken.is_file()
    assert lane.can_resume
    lane.resume()
    assert seen["finished"][-1][0].reason == "done"
    digests = {read_card(tmp_path / f"{name}.safetensors").digest for name in ("whole", "broken")}
    assert len(digests) == 1


def test_strokes_painted_meanwhile_count(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image, _ = blobs
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[0, 2:4, 2:20] = 1
    strokes[0, 15:17, 12:28] = 2
    seen = Seen(lane)
    files: list[np.ndarray] = []

    def paint(event: Any) -> None:
        strokes[1, 45:47, 40:55] = 2
        lane.update_labels(strokes)
        assert lane.request is not None
        files.append(np.load(lane.request.labels))

    lane.epoch_done.connect(paint)
    settings = replace(SETTINGS, sparse=True)
    lane.start_layers(settings, tmp_path / "s.safetensors", lane.open_image(image), strokes)
    assert not seen["failed"], seen["failed"]
    np.testing.assert_array_equal(files[0], strokes)
    card = read_card(tmp_path / "s.safetensors")
    assert card.provenance["data"]["slices"] == 2, "the second slice was painted during epoch 1"


def test_folders_train_too(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    from PIL import Image

    image, labels = blobs
    for z in range(2):
        for folder, array in (("images", (image[z] * 100).clip(0, 255)), ("masks", labels[z])):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"{z}.png")
    out = tmp_path / "f.safetensors"
    seen = Seen(lane)
    places = {"images": tmp_path / "images", "masks": tmp_path / "masks"}
    lane.start(replace(SETTINGS, epochs=1), out, **places, device="cpu")
    assert not seen["failed"], seen["failed"]
    assert seen["finished"][-1][0].reason == "done"
    assert out.is_file()


@pytest.mark.parametrize(
    ("labels", "word"),
    [(np.zeros(SHAPE, np.uint8), "label"), (np.ones((1, 3, 4), np.uint8), "expected")],
)
def test_labels_that_cannot_train_are_one_sentence(
    lane: TrainingController,
    blobs: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    labels: np.ndarray,
    word: str,
) -> None:
    seen = Seen(lane)
    start(lane, (blobs[0], labels), tmp_path / "n.safetensors")
    ((event,),) = seen["failed"]
    assert event.kind == "InputError"
    assert word in event.message
    assert not lane.busy


def test_folders_must_be_given(lane: TrainingController, tmp_path: Path) -> None:
    seen = Seen(lane)
    lane.start(SETTINGS, tmp_path / "n.safetensors")
    ((event,),) = seen["failed"]
    assert "choose two folders" in event.message


def test_one_training_at_a_time(
    lane: TrainingController, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    said: list[str] = []

    def again(event: Any) -> None:
        with pytest.raises(InputError, match="press Stop") as caught:
            start(lane, blobs, tmp_path / "second.safetensors")
        said.append(str(caught.value))

    lane.started.connect(again)
    start(lane, blobs, tmp_path / "first.safetensors", epochs=1)
    assert len(said) == 1
    assert not (tmp_path / "second.safetensors").exists()


def test_nothing_to_resume_is_said(lane: TrainingController) -> None:
    assert not lane.can_resume
    with pytest.raises(InputError, match="press Train"):
        lane.resume()
