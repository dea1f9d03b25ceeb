"""The shipped DenseUNet with Joint Attention keeps what its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_attnseg.cards import Card, read_card, resolve_checkpoint
from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.session import Session

NAME = "nuclei_dense_unet_ja"
LEVELS = tuple(f"level_{i}" for i in range(1, 5))


@pytest.fixture(scope="module")
def path() -> Path:
    return resolve_checkpoint(NAME)


@pytest.fixture(scope="module")
def card(path: Path) -> Card:
    return read_card(path)


def test_small_and_with_a_full_card(path: Path, card: Card) -> None:
    assert path.stat().st_size <= 3 * 2**20
    assert card.spec["name"] == "dense_unet"
    assert card.spec["options"]["attention"] == "ja"
    assert card.provenance["command"].startswith("napari-attnseg train --images ")
    assert card.metrics["test"]["n"] == 80
    assert card.metrics["test"]["dice"] >= 0.85
    assert card.metrics["test"]["dice"] > card.metrics["test"]["dice_without_attention"]
    assert {t["name"] for t in card.tunables} == set(LEVELS)
    assert "not for diagnosis" in card.text


def test_nuclei_on_some_test_images(path: Path, card: Card, shared_data: Path) -> None:
    folder = shared_data / "dsb2018"
    names = sorted((p.name for p in (folder / "labels").glob("*.png")), key=str.encode)
    some = names[-(len(names) // 5) :][::8]
    pairs = [(folder / "images" / n, folder / "labels" / n) for n in some]
    found = evaluate(path, pairs, device="cpu")
    assert found["n"] == 10
    assert found["dice"] == pytest.approx(card.metrics["test"]["dice"], abs=0.06)


def drawn(rows: int = 160, columns: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """Bright, soft discs on a dark noisy ground, and where they are."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:rows, :columns]
    mask = np.zeros((rows, columns), bool)
    for cy in range(20, rows, 40):
        for cx in range(20, columns, 40):
            mask |= (y - cy - rng.integers(-5, 6)) ** 2 + (x - cx) ** 2 < rng.integers(8, 13) ** 2
    light = ndimage.gaussian_filter(mask * 120.0 + 20.0, 1.5) + rng.normal(0, 4, mask.shape)
    return light.clip(0, 255).astype(np.uint8), mask


def test_every_level_answers_and_shows_its_maps(path: Path) -> None:
    image, mask = drawn()
    session = Session(path, "cpu")
    session.set_image(image)
    trained = session.predict(0)
    found = trained.labels.reshape(mask.shape) > 0
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) >= 0.8
    for level in LEVELS:
        other = session.predict(0, session.tuning.replace(**{level: 0.0}))
        assert not np.array_equal(other.probability, trained.probability), level
    maps = session.maps(0)
    assert {m.level for m in maps} == set(LEVELS)
    assert {m.name for m in maps} == {"pointwise", "received"}
    rows = session.rows(0, 80, 100)
    assert [m.level for m in rows] == list(LEVELS)
    assert [m.values.shape for m in rows] == [(80, 112), (40, 56), (20, 28), (10, 14)]
