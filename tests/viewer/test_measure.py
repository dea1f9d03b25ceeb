"""Areas and volumes: by hand for known sizes, pixels where nothing is known."""

import numpy as np
import pytest
from napari.layers import Image

from napari_attnseg.geometry import Geometry
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer.layers import volume_to_layer_data
from napari_attnseg.viewer.measure import counts_of, pixel_mm, size_words


def test_counts_equal_a_slow_loop():
    labels = np.random.default_rng(0).integers(0, 4, (7, 11)).astype(np.uint8)
    counts = counts_of(labels)
    assert counts.shape == (256,)
    for label in range(256):
        assert counts[label] == sum(1 for row in labels for v in row if v == label)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),  # a scale that nobody set says nothing
        ({"scale": (3, 2)}, None),  # nor does one in pixels
        ({"scale": (3, -2), "units": ("mm", "mm")}, 6.0),
        ({"scale": (0.5, 0.5), "units": ("um", "um")}, 0.25e-6),
    ],
)
def test_the_size_of_a_pixel_is_known_or_not(settings, expected):
    assert pixel_mm(Image(np.zeros((7, 11)), **settings)) == pytest.approx(expected)


def test_a_scan_brings_its_own_spacing():
    affine = np.diag([2.0, -1.5, 3.0, 1.0])
    data = np.zeros((7, 11, 13), np.int16)
    volume = Volume(data, Geometry(affine, data.shape, sform_code=2))
    pixels, settings, _ = volume_to_layer_data(volume)
    assert pixel_mm(Image(pixels, **settings)) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("pixels", "one", "ndim", "words"),
    [
        (1234, None, 2, "1,234 px"),
        (1000, 6.0, 2, "6,000 mm²"),
        (3, 0.25e-6, 2, "0.75 µm²"),
        (10_000, 12.0, 3, "120 ml"),
        (5, 9.0, 3, "45 mm³"),
        (0, 9.0, 3, "0 mm³"),
    ],
)
def test_sizes_in_words(pixels, one, ndim, words):
    assert size_words(pixels, one, ndim) == words
