"""The fingerprint: exact against segmenting again at every threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lively import lively_model
from skimage.measure import label

from napari_attnseg.cards import Card
from napari_attnseg.engine.fingerprint import (
    cell_sums,
    choose_thresholds,
    count_components,
    curve_sums,
)
from napari_attnseg.engine.metrics import count, dice, iou
from napari_attnseg.engine.objects import split_objects
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RULES, Preprocessing

RNG = np.random.default_rng(4)


def session_of(classes: int, size: int | None = None, use_cells: bool = True, **kw: Any) -> Session:
    model = lively_model(classes)
    p = Preprocessing(mean=(0.4,), std=(0.3,), size=size)
    card = Card(spec=model.spec.to_json(), preprocessing=p, tuning=model.tuning())
    session = Session(model, "cpu", card=card, use_cells=use_cells)
    session.set_image(RNG.random((45, 59)).astype(np.float32), **kw)
    return session


@pytest.mark.parametrize(
    ("classes", "rule", "size", "use_cells", "flips"),
    [
        *[(1, rule, None, True, (False, False, False)) for rule in RULES],
        (4, "authors", None, True, (False, True, False)),
        (1, "paper", 64, True, (False, False, True)),
        (4, "paper", None, False, (False, True, True)),
    ],
)
def test_curves_equal_brute_force(
    classes: int, rule: str, size: int | None, use_cells: bool, flips: tuple[bool, bool, bool]
) -> None:
    session = session_of(classes, size, use_cells, flips=flips)
    reference = RNG.integers(0, max(2, classes), (45, 59)).astype(np.uint8)
    tuning = session.tuning.replace(rule=rule, cut=0.45)
    f = session.fingerprint(0, tuning, points=33, reference=reference)
    assert (np.diff(f.thresholds) > 0).all()
    assert len(set(f.area.tolist())) > 3, "the thresholds do not matter in this case"
    for i, t in enumerate(f.thresholds):
        labels = session.predict(0, tuning.replace(threshold=float(t))).labels
        c = count(labels, reference, max(2, classes))
        assert f.area[i] == (labels > 0).sum()
        assert f.dice[i] == pytest.approx(dice(c), abs=1e-12)
        assert f.iou[i] == pytest.approx(iou(c), abs=1e-12)
        assert f.components[i] == split_objects(labels[None])[1]
    assert session.pipeline.chain.counts["encode"] == 1
    np.testing.assert_array_equal(
        np.sort(f.step), np.sort(np.asarray(session.predict(0).step), axis=None)
    )


def test_every_distinct_answer_is_found_by_thresholds_at_the_steps() -> None:
    session = session_of(1)
    step = np.unique(np.asarray(session.predict().step))
    f = session.fingerprint(0, thresholds=step.tolist())
    areas = [
        (session.predict(0, session.tuning.replace(threshold=float(t))).labels > 0).sum()
        for t in step
    ]
    np.testing.assert_array_equal(f.area, areas)


def test_without_reference_there_is_no_score() -> None:
    f = session_of(1).fingerprint(0)
    assert f.dice.size == f.iou.size == 0
    assert f.area.shape == f.components.shape == f.thresholds.shape


def test_wrong_reference_gets_a_sentence() -> None:
    session = session_of(4)
    with pytest.raises(InputError, match=r"\(45, 58\)"):
        session.fingerprint(0, reference=np.zeros((45, 58), np.uint8))
    with pytest.raises(InputError, match="class 9"):
        session.fingerprint(0, reference=np.full((45, 59), 9, np.uint8))


def test_curve_sums_equal_a_loop() -> None:
    step = np.round(RNG.random((7, 11)), 1).astype(np.float32)  # many ties
    off, on = RNG.integers(0, 50, (2, 7, 11))
    thresholds = np.array([-1.0, 0.0, 0.1, 0.30000001, 0.55, 1.0, 2.0])
    slow = [np.where(step > np.float32(t), on, off).sum() for t in thresholds]
    np.testing.assert_array_equal(curve_sums(step, off, on, thresholds), slow)


def test_cell_sums_cut_the_border_cells() -> None:
    pixels = RNG.random((13, 7)) > 0.5
    got = cell_sums(pixels, 4, (4, 2))
    slow = [[pixels[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].sum() for j in (0, 1)] for i in range(4)]
    np.testing.assert_array_equal(got, slow)


def test_components_are_counted_per_class_with_corners() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0], [2, 2, 0], [0, 0, 2], [1, 0, 0]])
    assert count_components(labels) == 3
    random = RNG.integers(0, 4, (31, 37))
    assert count_components(random) == label(random, background=0, connectivity=2).max()
    assert count_components(np.zeros((3, 4), np.uint8)) == 0


def test_chosen_thresholds_span_the_slider() -> None:
    step = RNG.random((9, 9)).astype(np.float32) * 0.02
    t = choose_thresholds(step, 64)
    assert len(t) <= 64
    assert t[0] == 0
    assert t[-1] == 2
    assert (t < 0.02).sum() > 50
