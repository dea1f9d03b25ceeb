"""Values of ``--set`` and ``--preprocessing`` that nothing could be trained with are refused."""

from __future__ import annotations

from typing import Any

import pytest

from napari_attnseg.cli._settings import parse_pairs, settings_from
from napari_attnseg.errors import InputError


def made(changes: list[str], preprocessing: list[str]) -> Any:
    pairs = parse_pairs(changes, "--set"), parse_pairs(preprocessing, "--preprocessing")
    return settings_from("threshold-matters", None, pairs[0], {}, pairs[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("batch=0", "from 1"),
        ("epochs=0", "from 1"),
        ("crop=-8", "from 1"),
        ("patience=-1", "from 0"),
        ("validation=1.5", "from 0 to 0.9"),
        ("lr=true", "a number"),
        ("lr=NaN", "finite"),
        ("momentum=Infinity", "finite"),
    ],
)
def test_numbers_out_of_range(change: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        made([change], [])
    assert change.partition("=")[0] in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["intensity=windows"], "unit or percentile or window"),
        (["size=large"], "whole number of pixels"),
        (["size=0"], "from 1"),
        (["channels=1.5"], "a whole number"),
        (["clahe_tiles=0"], "from 1"),
        (["mean=grey"], "numbers as"),
        (["low=80", "high=20"], "low from 0 up to below high"),
        (["high=101"], "at most 100"),
        (["intensity=window", "low=400", "high=-160"], "low below high"),
    ],
)
def test_preprocessing_that_shows_nothing(changes: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made([], changes)


def test_usual_values_are_taken() -> None:
    settings = made(
        ["crop=null", "validation=0", "class_weights=1,5", "lr=1e-3"],
        ["intensity=window", "low=-160", "high=240", "size=null", "mean=0.5", "std=[0.5]"],
    )
    assert settings.crop is None
    assert (settings.preprocessing.low, settings.preprocessing.high) == (-160, 240)
    assert settings.preprocessing.mean == (0.5,)
    assert made([], ["channels=3", "spacing_mm=[1, 0.7, 0.7]"]).preprocessing.channels == 3
