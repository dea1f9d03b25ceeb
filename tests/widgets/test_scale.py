"""Thresholds and slider positions are one-to-one, ends included."""

import numpy as np
import pytest

from napari_attnseg.widgets._scale import StepScale

STEP = np.array([[0.002, 0.004, 0.004], [0.01, 0.03, 0.2]])


@pytest.mark.parametrize("kind", ["linear", "quantile"])
def test_round_trip(kind):
    scale = StepScale(STEP, kind)
    for t in (0.0, 0.001, 0.004, 0.02, 0.199, 0.2):
        assert scale.threshold(float(scale.position(t))) == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "quantile"])
def test_ends_close_all_or_none(kind):
    scale = StepScale(STEP, kind)
    assert scale.over(scale.threshold(0.0)) == STEP.size
    assert scale.over(scale.threshold(1.0)) == 0
    assert float(scale.position(2.0)) == 1.0


def test_quantile_is_even_in_cells():
    """Random distinct steps: equal ways along the slider close equally many cells."""
    step = np.random.default_rng(0).gamma(0.3, 0.02, 1001).clip(0, 1)
    scale = StepScale(step, "quantile")
    over = [scale.over(scale.threshold(p)) for p in (0.1, 0.25, 0.5, 0.9)]
    assert np.allclose(over, [901, 751, 501, 101], atol=2)


def test_over_is_strict():
    assert StepScale(STEP).over(0.004) == 3
    assert StepScale(STEP).over(0.0039) == 5


def test_linear_range_is_round_and_reaches_everything():
    assert StepScale(STEP).upper == pytest.approx(0.3)
    assert StepScale(STEP, include=0.5).upper == pytest.approx(0.6)
    assert StepScale(STEP, include=2.0).upper == pytest.approx(0.3)  # 2.0 means plain, no place
    assert StepScale([1.0]).upper == 1.0


@pytest.mark.parametrize("step", [[], [0.0, 0.0], [np.nan]])
def test_nothing_known_falls_back_to_unit_range(step):
    scale = StepScale(step, "quantile")
    assert not scale.is_quantile
    assert 0 < scale.upper <= 1
    assert scale.threshold(0.5) == pytest.approx(0.5 * scale.upper)


def test_histogram_counts_every_cell():
    counts, edges = StepScale(STEP).histogram(16)
    assert counts.sum() == STEP.size
    assert edges[-1] == pytest.approx(0.3)
