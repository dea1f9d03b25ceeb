"""Metrics against slow loops over single pixels, hand cases and the empty conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_attnseg.engine.metrics import (
    METRICS,
    Counts,
    accuracy,
    auc,
    count,
    dice,
    f1,
    figures,
    iou,
    legacy_columnwise_iou,
    mean_of,
    miou,
    plain,
    precision,
    recall,
    score_histogram,
    specificity,
)
from napari_attnseg.errors import InputError


def slow(labels: np.ndarray, reference: np.ndarray, c: int) -> dict[str, float]:
    """One class, pixel by pixel."""
    tp = fp = fn = tn = 0
    for a, b in zip(labels.ravel().tolist(), reference.ravel().tolist(), strict=True):
        tp += a == c and b == c
        fp += a == c and b != c
        fn += a != c and b == c
        tn += a != c and b != c
    p, r = tp / (tp + fp), tp / (tp + fn)
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": p,
        "recall": r,
        "specificity": tn / (tn + fp),
        "f1": 2 * p * r / (p + r),
    }


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_equal_slow_loops(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels, reference = rng.integers(0, classes, (2, 7, 11, 13)).astype(np.uint8)
    got = figures(count(labels, reference, classes))
    each = [slow(labels, reference, c) for c in range(1, classes)]
    for name in each[0]:
        assert got[name] == pytest.approx(np.mean([e[name] for e in each]), abs=1e-12)
    assert got["accuracy"] == pytest.approx((labels == reference).mean(), abs=1e-12)


def test_hand_case() -> None:
    labels = np.array([[1, 1, 0, 0]])
    reference = np.array([[1, 0, 1, 0]])
    c = count(labels, reference)
    assert (dice(c), iou(c)) == (0.5, pytest.approx(1 / 3))
    assert (precision(c), recall(c), specificity(c), accuracy(c)) == (0.5, 0.5, 0.5, 0.5)


def test_f1_is_dice() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        c = count(*(rng.random((2, 9, 5)) > rng.random()).astype(np.uint8))
        assert f1(c) == pytest.approx(dice(c), abs=1e-12)


def test_empty_in_both_is_perfect() -> None:
    none = np.zeros((3, 5), np.uint8)
    assert set(figures(count(none, none)).values()) == {1.0}


@pytest.mark.parametrize("swap", [False, True])
def test_empty_in_one_is_zero(swap: bool) -> None:
    full, none = np.ones((3, 5), np.uint8), np.zeros((3, 5), np.uint8)
    c = count(none, full) if swap else count(full, none)
    for metric in (dice, iou, precision, recall, f1, accuracy):
        assert metric(c) == 0.0, metric.__name__


def test_absent_class_is_left_out_of_the_mean() -> None:
    labels = np.array([[0, 1, 1, 1]], np.uint8)
    assert dice(count(labels, labels, classes=5)) == 1.0
    c = count(labels, np.array([[0, 1, 1, 2]], np.uint8), classes=5)
    assert dice(c) == pytest.approx((0.8 + 0.0) / 2)  # class 2 was missed: it occurs, so it counts


def test_pooled_is_the_count_of_all_pixels_together() -> None:
    rng = np.random.default_rng(2)
    labels, reference = rng.integers(0, 3, (2, 4, 6, 5)).astype(np.uint8)
    parts = [count(labels[i], reference[i], 3) for i in range(4)]
    pooled = parts[0] + parts[1] + parts[2] + parts[3]
    assert figures(pooled) == figures(count(labels, reference, 3))
    assert figures(pooled.of_class(2))["dice"] == pytest.approx(slow(labels, reference, 2)["dice"])


def test_wrong_shape_and_unknown_class_are_said() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        count(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="class id 7"):
        count(np.zeros((1, 1), np.uint8), np.full((1, 1), 7, np.uint8), 4)


def test_auc_equals_pair_counting() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((7, 11)) > 0.6
    p = np.round(rng.random((7, 11)) * 0.5 + truth * 0.2, 1).astype(np.float32)  # many ties
    wins = [(a > b) + 0.5 * (a == b) for a in p[truth] for b in p[~truth]]
    assert auc(score_histogram(p, truth)) == pytest.approx(np.mean(wins), abs=1e-9)


def test_auc_of_perfect_inverted_and_one_kind() -> None:
    truth = np.array([0, 0, 1, 1])
    p = np.array([0.0, 0.2, 0.8, 1.0], np.float32)
    assert auc(score_histogram(p, truth)) == 1.0
    assert auc(score_histogram(1 - p, truth)) == 0.0
    assert auc(score_histogram(np.full(4, 0.5, np.float32), truth)) == 0.5
    assert math.isnan(auc(score_histogram(p, np.zeros(4))))
    assert mean_of([1.0, float("nan"), 0.0]) == 0.5
    assert plain({"auc": float("nan"), "n": 3}) == {"auc": None, "n": 3}


def test_legacy_columnwise_iou_is_not_the_iou() -> None:
    mask = np.zeros((1, 4, 9), np.uint8)
    reference = np.zeros((1, 4, 9), np.uint8)
    mask[0, :2, 0] = 1  # one column of nine holds pixels; 1 of 2 agree there
    reference[0, :1, 0] = 1
    assert iou(count(mask, reference)) == 0.5
    assert legacy_columnwise_iou(mask, reference) == pytest.approx((0.5 + 8) / 9, abs=1e-6)
    slow_columns = [
        (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0
        for a, b in zip(mask[0].T.astype(bool), reference[0].T.astype(bool), strict=True)
    ]
    assert legacy_columnwise_iou(mask, reference) == pytest.approx(np.mean(slow_columns), abs=1e-6)


def test_dice_and_iou_agree_with_monai() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(8)
    labels, reference = rng.integers(0, 3, (2, 13, 17)).astype(np.uint8)
    onehot = [
        torch.from_numpy(np.stack([a == c for c in range(3)]))[None] for a in (labels, reference)
    ]
    c = count(labels, reference, 3)
    theirs = metrics.compute_dice(*onehot, include_background=False).mean()
    assert dice(c) == pytest.approx(float(theirs), abs=1e-6)
    theirs = metrics.compute_iou(*onehot, include_background=False).mean()
    assert iou(c) == pytest.approx(float(theirs), abs=1e-6)


def test_every_metric_says_what_it_is() -> None:
    assert all(m.__doc__ for m in METRICS.values())


def slow_miou(labels: np.ndarray, reference: np.ndarray, classes: int) -> float:
    """Sets of pixels, class by class, the background as any other."""
    each = []
    for c in range(classes):
        a = {i for i, v in enumerate(labels.ravel().tolist()) if v == c}
        b = {i for i, v in enumerate(reference.ravel().tolist()) if v == c}
        if a | b:
            each.append(len(a & b) / len(a | b))
    return sum(each) / len(each)


@pytest.mark.parametrize("classes", [2, 4])
def test_miou_equals_sets_of_pixels_per_image_and_pooled(classes: int) -> None:
    rng = np.random.default_rng(classes + 10)
    labels, reference = rng.integers(0, classes, (2, 3, 7, 11)).astype(np.uint8)
    parts = [count(labels[i], reference[i], classes) for i in range(3)]
    for i, part in enumerate(parts):
        wanted = slow_miou(labels[i], reference[i], classes)
        assert miou(part) == pytest.approx(wanted, abs=1e-12)
    pooled = miou(parts[0] + parts[1] + parts[2])
    assert pooled == pytest.approx(slow_miou(labels, reference, classes), abs=1e-12)
    assert pooled != pytest.approx(np.mean([miou(p) for p in parts]), abs=1e-6)


def test_miou_by_hand_and_where_a_class_is_absent() -> None:
    c = count(np.array([[1, 1, 0, 0, 0]]), np.array([[1, 0, 0, 0, 0]]))
    assert miou(c) == pytest.approx((1 / 2 + 3 / 4) / 2)
    full = np.ones((3, 4), np.uint8)
    assert miou(count(full, full, 5)) == 1.0  # no background anywhere: it says nothing
    assert miou(count(full, np.zeros_like(full))) == 0.0
    assert math.isnan(miou(Counts(*(np.array([1]),) * 4)))


def test_miou_of_one_class_against_the_rest() -> None:
    rng = np.random.default_rng(20)
    labels, reference = rng.integers(0, 4, (2, 9, 13)).astype(np.uint8)
    one = count(labels, reference, 4).of_class(2)
    wanted = slow_miou((labels == 2).astype(int), (reference == 2).astype(int), 2)
    assert miou(one) == pytest.approx(wanted, abs=1e-12)


def test_miou_agrees_with_monai_with_the_background() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(9)
    labels, reference = rng.integers(0, 3, (2, 13, 17)).astype(np.uint8)
    onehot = [
        torch.from_numpy(np.stack([a == c for c in range(3)]))[None] for a in (labels, reference)
    ]
    theirs = metrics.compute_iou(*onehot, include_background=True).mean()
    assert miou(count(labels, reference, 3)) == pytest.approx(float(theirs), abs=1e-6)
