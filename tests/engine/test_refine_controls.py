"""Controls of the experiment under the hand of a person: refused where they carry nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.control.message_base import ImageRef
from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.engine.refine_desk import RefineDesk
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from refined_models import refined_checkpoint

IMAGE = np.random.default_rng(3).integers(0, 255, (3, 24, 29)).astype(np.uint8)
REF = ImageRef("image", "unused")


def desk_of(coarse: Path, out: Path, kind: str) -> RefineDesk:
    session = Session(refined_checkpoint(coarse, out / f"{kind}.safetensors", kind), "cpu")
    session.set_image(IMAGE)
    return RefineDesk(session)


@pytest.mark.parametrize("carry", [0, 1])
def test_where_nothing_is_carried_strokes_are_refused(
    carry: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    desk = desk_of(tiny_checkpoint, tmp_path, "none")
    strokes = np.zeros(IMAGE.shape, np.uint8)
    strokes[0, 8:12, 8:12] = 2
    np.save(tmp_path / "strokes.npy", strokes)
    plain = Refine(image=REF, tuning=desk.session.tuning, iterations=2)
    before = desk.show(plain)
    painted = replace(plain, strokes=str(tmp_path / "strokes.npy"), carry=carry)
    for ask in (desk.show, lambda work: list(desk.steps(work))):
        with pytest.raises(InputError, match="carries nothing to neighbours"):
            ask(painted)
    with pytest.raises(InputError, match="carries nothing to neighbours"):
        desk.weights(Affinity(image=REF, tuning=desk.session.tuning, y=3, x=3))
    assert np.array_equal(desk.show(plain).probability, before.probability)
    assert desk.show(replace(painted, strength=0.0)).anchored == 0


@pytest.mark.parametrize("kind", ["cspn_fold", "dyspn_fold"])
def test_broken_forms_hold_strokes_all_the_same(
    kind: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    desk = desk_of(tiny_checkpoint, tmp_path, kind)
    strokes = np.zeros(IMAGE.shape, np.uint8)
    strokes[0, 8:12, 8:12] = 1 + (np.indices((4, 4)).sum(0) % 2)
    np.save(tmp_path / "strokes.npy", strokes)
    work = Refine(image=REF, tuning=desk.session.tuning, iterations=2)
    shown = desk.show(replace(work, strokes=str(tmp_path / "strokes.npy")))
    held = strokes[0] > 0
    assert np.array_equal(shown.labels[held], strokes[0][held] - 1)
