"""Training and evaluation on a recognised data set: unknown pixels count for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.layout_data import LayoutSource, evaluate_layout
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.train import train
from napari_attnseg.errors import InputError
from napari_attnseg.io.layouts import find_layout
from napari_attnseg.settings import Preprocessing, TrainSettings

SMALL = TrainSettings(
    options={"width": 0.125, "stride": 8},
    preprocessing=Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3),
    epochs=1,
    batch=4,
    validation=0.2,
)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten pets: a bright square, a border of trimap 3 around it."""
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / folder).mkdir(parents=True)
    for n in range(10):
        trimap = np.full((33, 29), 2, np.uint8)
        y, x = rng.integers(3, 14, 2)
        trimap[y - 2 : y + 13, x - 2 : x + 13] = 3
        trimap[y : y + 11, x : x + 11] = 1
        noise = rng.integers(0, 60, (33, 29, 3))
        pixels = noise + np.where(trimap == 1, 180, 0)[..., None] * [1.0, 0.8, 0.6]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"images/Bengal_{n}.png")
        Image.fromarray(trimap).save(tmp_path / f"annotations/trimaps/Bengal_{n}.png")
    return tmp_path


def test_source_hands_out_unknown_pixels_as_ignored(pets: Path) -> None:
    layout = find_layout(pets, "border-ignored")
    source = LayoutSource(layout)
    for _ in source.scan(SMALL):
        pass
    assert len(source.slices) == 8
    target = source.example(source.slices[0]).target
    trimap = np.asarray(Image.open(layout.train[0].mask))
    np.testing.assert_array_equal(target == IGNORE, trimap == 3)
    np.testing.assert_array_equal(target == 1, trimap == 1)
    assert source.describe()["test_pairs"] == 2


def test_training_runs_and_the_card_names_the_data(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    for _ in train(SMALL, LayoutSource(find_layout(pets, "border-ignored")), out, device="cpu"):
        pass
    session = Session(out, "cpu")
    data = session.card.provenance["data"]
    assert data["data"] == "Oxford-IIIT Pet"
    assert "unknown" in data["labels"]


def test_figures_leave_unknown_pixels_out(pets: Path, tiny_checkpoint: Path) -> None:
    layout = find_layout(pets)
    ignored = layout.with_labels("border-ignored")
    session = Session(tiny_checkpoint, "cpu")
    found = evaluate_layout(session, ignored)
    known = total = right = 0
    for item in ignored.test:
        trimap = np.asarray(Image.open(item.mask))
        session.set_image(item.image)
        labels = session.predict(0).labels
        keep = trimap != 3
        known += int(keep.sum())
        right += int(((labels > 0) == (trimap == 1))[keep].sum())
        total += trimap.size
    assert known < total
    assert found["pooled"]["accuracy"] == pytest.approx(right / known)


def test_without_unknown_pixels_the_figures_are_those_of_evaluate(
    pets: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    layout = find_layout(pets)
    pairs = []
    for item in layout.test:
        trimap = np.asarray(Image.open(item.mask))
        path = tmp_path / item.mask.name
        Image.fromarray((trimap != 2).astype(np.uint8)).save(path)
        pairs.append((item.image, path))
    assert evaluate_layout(tiny_checkpoint, layout, "cpu") == evaluate(
        tiny_checkpoint, pairs, "cpu"
    ) | {"per_image": evaluate_layout(tiny_checkpoint, layout, "cpu")["per_image"]}


def test_classes_must_agree(pets: Path) -> None:
    settings = TrainSettings(class_names=("background", "a", "b"))
    source = LayoutSource(find_layout(pets))
    with pytest.raises(InputError, match="labels are background, pet; expected as many"):
        next(source.scan(settings))
