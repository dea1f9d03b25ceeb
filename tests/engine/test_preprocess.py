"""Raw pixels to network input: every intensity rule, channels, non-finite pixels, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_attnseg.engine.preprocess import (
    channel_note,
    equalize,
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


# --- contrast-limited adaptive histogram equalisation ---------------------------------------------

CLAHE = Preprocessing(intensity="unit", clahe_clip=2.0)
COLOUR = Preprocessing(channels=3, intensity="unit", mean=(0,) * 3, std=(1,) * 3, clahe_clip=2.0)


@pytest.mark.parametrize("shape", [(61, 83), (8, 8), (7, 200), (3, 5)])
def test_clahe_keeps_the_range_at_every_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(40, 180, shape).astype(np.uint8)
    out = prepared(image, CLAHE)
    assert out.shape == (1, *shape)
    assert out.dtype == np.float32
    assert out.min() == pytest.approx(image.min() / 255, abs=1e-6)
    assert out.max() == pytest.approx(image.max() / 255, abs=1e-6)
    colour = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = prepared(colour, COLOUR, rgb=True)
    assert 0 <= found.min() <= found.max() <= 1


def test_clahe_leaves_a_constant_image_constant() -> None:
    grey = prepared(np.full((21, 35), 77, np.uint8), CLAHE)
    np.testing.assert_array_equal(grey, np.float32(77 / 255))
    colour = np.broadcast_to(np.array([200, 90, 30], np.uint8), (21, 35, 3))
    found = prepared(colour, COLOUR, rgb=True)
    np.testing.assert_allclose(found, (colour / 255).transpose(2, 0, 1), atol=1e-6)


def test_clahe_raises_local_contrast_and_the_clip_limits_it() -> None:
    """Faint texture on a steep ramp: the texture grows, less so under a lower limit."""
    rng = np.random.default_rng(2)
    texture = rng.normal(0, 0.01, (128, 128))
    image = (np.linspace(0, 1, 128)[None] * 0.8 + 0.1 + texture).astype(np.float32)

    def local(clip: float) -> float:
        out = prepared(image, Preprocessing(intensity="unit", clahe_clip=clip))[0]
        return float(np.std(np.diff(out, axis=0)))

    assert local(0.0) < local(1.5) < local(4.0)


def test_clahe_of_one_tile_is_clipped_histogram_equalisation_by_hand() -> None:
    """One tile: every value goes to the cumulated, clipped histogram, whatever lies around it."""
    image = np.random.default_rng(3).beta(2, 6, (64, 64)).astype(np.float32)
    image = (image - image.min()) / (image.max() - image.min())
    out = equalize(image[..., None], False, 2.0, 1)[..., 0]
    bins = np.minimum((image * 256).astype(int), 255)
    height = np.bincount(bins.ravel(), minlength=256).astype(float)
    limit = 2.0 * image.size / 256
    excess = np.maximum(height - limit, 0).sum()
    cumulated = np.cumsum(np.minimum(height, limit) + excess / 256)
    wanted = cumulated[bins] / cumulated[-1]
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    assert np.abs(out - wanted).mean() < 0.02
    assert np.corrcoef(out.ravel(), wanted.ravel())[0, 1] > 0.999


def test_clahe_changes_the_lightness_alone() -> None:
    from skimage.color import rgb2lab

    rng = np.random.default_rng(4)
    colour = rng.integers(90, 150, (64, 64, 3)).astype(np.uint8)  # well inside the gamut
    lab, after = (
        rgb2lab(prepared(colour, p, rgb=True).transpose(1, 2, 0))
        for p in (replace(COLOUR, clahe_clip=0.0), COLOUR)
    )
    assert np.abs(after[..., 0] - lab[..., 0]).max() > 3
    assert np.median(np.abs(after[..., 1:] - lab[..., 1:])) < 0.5


def test_a_grey_image_in_three_channels_is_equalised_as_one() -> None:
    image = np.random.default_rng(5).integers(0, 200, (40, 50)).astype(np.uint8)
    found = prepared(image, COLOUR)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], prepared(image, CLAHE)[0])


def test_clahe_without_a_tile_is_refused() -> None:
    with pytest.raises(InputError, match="clahe_tiles=0"):
        prepared(np.arange(35, dtype=np.uint8).reshape(5, 7), replace(CLAHE, clahe_tiles=0))
