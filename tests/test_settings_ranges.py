"""Numbers out of range are refused for scripts as they are on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.settings import RECIPES, Preprocessing, TrainSettings, check_settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_within(name: str) -> None:
    check_settings(RECIPES[name])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs=0, expected a finite number from 1"),
        ({"batch": -1}, "batch=-1, expected a finite number from 1"),
        ({"lr": float("nan")}, "lr=nan, expected a finite number from 0"),
        ({"validation": 1.0}, "validation=1.0, expected a finite number from 0 to 0.9"),
        ({"threshold": 1.5}, "threshold=1.5, expected 0 to 1, or 2 for plain attention"),
        ({"preprocessing": Preprocessing(size=0)}, "size=0, expected a finite number from 1"),
    ],
)
def test_what_is_out_of_range_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_settings(replace(TrainSettings(), **values))


def test_a_script_that_trains_is_told_before_anything_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from napari_attnseg.engine.data import FolderSource
    from napari_attnseg.engine.train import train

    source = FolderSource(tmp_path / "none", tmp_path / "none")
    with pytest.raises(InputError, match="epochs=0"):
        next(iter(train(replace(TrainSettings(), epochs=0), source, tmp_path / "m.safetensors")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 7}, "stride=7, expected one of 8, 16, 32"),
        ({"rule": "papers"}, "rule='papers', expected one of "),
        ({"threshold": -0.1}, "threshold=-0.1, expected 0 to 1"),
    ],
)
def test_a_script_that_makes_a_model_is_told_too(options: dict[str, Any], words: str) -> None:
    pytest.importorskip("torch")
    from napari_attnseg import create_model

    with pytest.raises(InputError, match=words):
        create_model("smooth_unet", in_channels=1, classes=1, **options)
