"""The shipped refiners keep what their cards say: small, better than the mask they refine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.cards import read_card, shipped_checkpoints
from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.session import Session

COARSE = "nuclei_smooth_unet"
BOTH = pytest.mark.parametrize("refine", ["cspn", "dyspn"])


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[tuple[Path, Path]]:
    """Every tenth image of the test part: the last fifth in byte order of the names."""
    folder = shared_data / "dsb2018"
    names = sorted((p.name for p in (folder / "labels").glob("*.png")), key=str.encode)
    test = names[len(names) - len(names) // 5 :]
    return [(folder / "images" / n, folder / "labels" / n) for n in test[::10]]


@BOTH
def test_small_and_with_a_full_card(refine: str) -> None:
    path = shipped_checkpoints()[f"nuclei_{refine}"]
    card = read_card(path)
    assert path.stat().st_size <= 3 * 2**20
    assert (card.spec["name"], card.spec["options"]["refine"]) == ("refined", refine)
    assert card.spec["options"]["frozen"] is True
    command = card.provenance["command"]
    assert command.startswith("napari-attnseg train --images data/dsb2018/train/images ")
    assert f"--refine {refine} --coarse {COARSE} " in command
    coarse = read_card(shipped_checkpoints()[COARSE])
    assert card.provenance["coarse"] == {"name": COARSE, "digest": coarse.digest}
    test = card.metrics["test"]
    assert test["n"] == 80
    assert test["coarse"]["dice"] == coarse.metrics["test"]["dice"]
    assert test["dice"] >= test["coarse"]["dice"]
    assert test["pooled"]["dice"] >= test["coarse"]["pooled"]["dice"]
    assert "not for diagnosis" in card.text


@BOTH
def test_no_iteration_is_the_shipped_coarse_model(refine: str) -> None:
    image = np.random.default_rng(2).integers(0, 200, (70, 93)).astype(np.uint8)
    refined, coarse = Session(f"nuclei_{refine}", "cpu"), Session(COARSE, "cpu")
    for session in (refined, coarse):
        session.set_image(image)
    none = refined.predict(0, refined.tuning.replace(iterations=0))
    assert np.array_equal(none.labels, coarse.predict(0).labels)


@BOTH
def test_refined_masks_of_real_nuclei_are_better(
    refine: str, pairs: list[tuple[Path, Path]]
) -> None:
    session = Session(f"nuclei_{refine}", "cpu")
    none = evaluate(session, pairs, tuning=session.tuning.replace(iterations=0))
    result = evaluate(session, pairs)
    assert result["n"] == 8
    assert result["dice"] > none["dice"]
