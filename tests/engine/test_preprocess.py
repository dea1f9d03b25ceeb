"""Raw pixels to network input: every intensity rule, channels, non-finite pixels, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.engine.preprocess import (
    channel_note,
    intensity_limits,
    normalize,
    resize,
    to_channels,
    working_size,
)
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing


def prepared(image: np.ndarray, p: Preprocessing, rgb: bool = False) -> np.ndarray:
    return normalize(image, rgb, p, intensity_limits(image[None], rgb, p))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [(np.uint8, 51, 0.2), (np.uint16, 13107, 0.2), (np.float32, 0.2, 0.2), (np.float64, 3.5, 3.5)],
)
def test_unit_divides_by_the_largest_value_of_the_type(
    dtype: type, value: float, expected: float
) -> None:
    out = prepared(np.full((7, 11), value, dtype), Preprocessing(intensity="unit"))
    assert out.shape == (1, 7, 11)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_window_clips_raw_units() -> None:
    p = Preprocessing(intensity="window", low=-160, high=240)
    out = prepared(np.array([[-1000, -160, 40, 240, 3000]], np.int16), p)
    np.testing.assert_allclose(out[0, 0], [0, 0, 0.5, 1, 1])


def test_percentile_maps_the_two_percentiles_to_zero_and_one() -> None:
    image = np.random.default_rng(0).normal(500, 100, (41, 43)).astype(np.float32)
    low, high = np.percentile(image, [1, 99])
    out = prepared(image, Preprocessing())
    np.testing.assert_allclose(out[0], np.clip((image - low) / (high - low), 0, 1), atol=1e-5)


def test_percentile_ignores_scale_and_shift() -> None:
    image = np.random.default_rng(1).random((13, 17)).astype(np.float32)
    a = prepared(image, Preprocessing())
    np.testing.assert_allclose(prepared(image * 300 - 40, Preprocessing()), a, atol=1e-4)


def test_mean_and_std_come_last_per_channel() -> None:
    p = Preprocessing(channels=3, intensity="unit", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    out = prepared(np.full((2, 3, 3), 255, np.uint8), p, rgb=True)
    np.testing.assert_allclose(out[:, 0, 0], [0.9, 0.4, 0.175], rtol=1e-5)


def test_non_finite_pixels_are_not_spread() -> None:
    image = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, -np.inf
    out = prepared(image, Preprocessing(low=0, high=100))
    assert np.isfinite(out).all()
    assert (out[0, 0, 0], out[0, 1, 1], out[0, 2, 2]) == (0, 1, 0)
    with pytest.raises(InputError, match="finite"):
        prepared(np.full((3, 3), np.nan), Preprocessing())


def test_constant_image_becomes_zero() -> None:
    assert not prepared(np.full((5, 7), 9, np.uint8), Preprocessing()).any()


def test_volume_percentiles_are_of_the_volume() -> None:
    volume = np.stack([np.full((9, 9), v, np.float32) for v in range(101)])
    assert intensity_limits(volume, False, Preprocessing(low=10, high=90)) == (10.0, 90.0)


def test_large_volume_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_attnseg.engine.preprocess.SAMPLE", 1000)
    volume = np.random.default_rng(0).random((40, 50, 60)).astype(np.float32)
    low, high = intensity_limits(volume, False, Preprocessing())
    assert low == pytest.approx(0.01, abs=0.02)
    assert high == pytest.approx(0.99, abs=0.02)


def test_channels() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(to_channels(grey, False, 3)[..., 2], grey)
    colour = np.zeros((1, 1, 3), np.uint8)
    colour[..., 1] = 100
    assert to_channels(colour, True, 1)[0, 0, 0] == pytest.approx(58.7)
    assert channel_note(1, 1) is None
    assert "repeated" in str(channel_note(1, 3))
    assert "luminance" in str(channel_note(3, 1))
    with pytest.raises(InputError, match="2 channels, expected 3"):
        channel_note(2, 3)


def test_sizes() -> None:
    assert working_size((31, 47), Preprocessing()) == (31, 47)
    assert working_size((31, 47), Preprocessing(size=224)) == (224, 224)
    p = Preprocessing(spacing_mm=(1.0, 2.0))
    assert working_size((30, 40), p, (5.0, 2.0, 1.0)) == (60, 20)
    assert working_size((30, 40), p) == (30, 40)  # unknown spacing: as it is
    x = torch.rand(1, 1, 9, 5)
    assert resize(x, (9, 5), True) is x
    assert resize(x, (18, 5), False).shape == (1, 1, 18, 5)
