"""The shipped PAM-UNet is found, small, segments, and its levels are alive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.cards import Card, read_card, shipped_checkpoints
from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.session import Session

NAME = "nuclei_pam_unet"


@pytest.fixture(scope="module")
def card() -> Card:
    return read_card(shipped_checkpoints()[NAME])


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[tuple[Path, Path]]:
    """Every eighth image of the test part: the last fifth in byte order of the names."""
    folder = shared_data / "dsb2018"
    names = sorted((p.name for p in (folder / "labels").glob("*.png")), key=str.encode)
    test = names[len(names) - len(names) // 5 :]
    return [(folder / "images" / n, folder / "labels" / n) for n in test[::8]]


def test_small_and_with_a_full_card(card: Card) -> None:
    assert shipped_checkpoints()[NAME].stat().st_size <= 3 * 2**20
    assert card.spec["name"] == "pam_unet"
    assert card.provenance["command"].startswith("napari-attnseg train --images ")
    assert card.provenance["settings"]["regulariser_weight"] == 0.01
    assert card.metrics["test"]["n"] == 80
    assert card.metrics["test"]["dice"] >= 0.85
    assert "Research use" in card.text


def test_it_finds_the_drawn_nuclei() -> None:
    pytest.importorskip("napari")
    from napari_attnseg.viewer.samples import draw_nuclei

    image, mask = draw_nuclei()
    session = Session(NAME, "cpu")
    session.set_image(image)
    found = session.predict(0).labels > 0
    assert 2 * np.count_nonzero(found & (mask > 0)) / (found.sum() + (mask > 0).sum()) >= 0.8


def test_it_finds_real_nuclei_and_its_levels_move_them(pairs: list[tuple[Path, Path]]) -> None:
    session = Session(NAME, "cpu")
    result = evaluate(session, pairs)
    assert result["n"] == 10
    assert result["dice"] >= 0.8
    session.set_image(pairs[0][0])
    default = session.predict(0).probability
    for name in (t.name for t in session.model.tunables):
        moved = session.predict(0, session.tuning.replace(**{name: 0.0})).probability
        assert np.abs(moved - default).max() > 0.01, name
