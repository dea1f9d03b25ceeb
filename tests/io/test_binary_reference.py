"""A reference of 0 and 255 beside a mask of 0 and 1: 255 counts as the class, and it is said."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.io.agreement import agreement, as_reference, error_map
from napari_attnseg.io.measure_space import Space

RNG = np.random.default_rng(0)
MINE = (RNG.random((7, 11, 13)) > 0.6).astype(np.uint8)
TRUE = (RNG.random((7, 11, 13)) > 0.6).astype(np.uint8)
SPACE = Space(np.diag([3.0, 1.0, 0.5, 1.0]), "mm")


@pytest.mark.parametrize(("of", "to"), [(255, 1), (65535, 1), (255, 7), (1, 255)])
def test_yes_is_the_class_of_the_mask(of: int, to: int) -> None:
    mask, reference = MINE * np.uint16(to), TRUE * np.uint16(of)
    found, words = as_reference(mask, reference)
    assert f"{of} of the reference is compared as {to}" in words
    assert found.shape == mask.shape
    wanted = TRUE * np.uint16(to)
    assert agreement(mask, found, SPACE) == agreement(mask, wanted, SPACE)
    assert np.array_equal(error_map(mask, found), error_map(mask, wanted))
    for at in (0, slice(2, 5), (3, slice(1, 4)), ...):
        assert np.array_equal(np.asarray(found[at]), wanted[at])


def test_among_several_classes_yes_is_the_first() -> None:
    mask = MINE + 2 * (TRUE & ~MINE.astype(bool))
    assert set(np.unique(mask)) == {0, 1, 2}
    found, words = as_reference(mask, TRUE * np.uint8(255))
    assert "255 of the reference is compared as 1" in words
    assert np.array_equal(np.asarray(found[...]), TRUE)


@pytest.mark.parametrize(
    ("mask", "reference"),
    [
        (MINE * np.uint8(255), TRUE * np.uint8(255)),  # both say it alike
        (MINE, TRUE),
        (MINE, TRUE * np.uint8(2)),  # another class, and no way to write "yes"
        (MINE * np.uint8(2), TRUE),
        (MINE, TRUE * np.uint8(255) - (MINE & TRUE)),  # 254 as well: no binary mask
        (MINE, TRUE * 0),
        (MINE * 0, TRUE * np.uint8(2)),
        (MINE + np.uint8(254) * (TRUE & MINE), TRUE * np.uint8(255)),  # 255 is a class here
    ],
)
def test_everything_else_is_compared_as_it_is(mask: np.ndarray, reference: np.ndarray) -> None:
    found, words = as_reference(mask, reference)
    assert found is reference
    assert words == ""
