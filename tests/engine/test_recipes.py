"""Recipes say what their papers say, and travel in a request."""

from __future__ import annotations

import json

import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.settings import (
    RECIPE_ALIASES,
    RECIPE_WORDS,
    RECIPES,
    TrainSettings,
    recipe,
    with_model,
)


@pytest.mark.parametrize("name", [*RECIPES, *RECIPE_ALIASES])
def test_every_recipe_travels_and_has_its_words(name: str) -> None:
    settings = recipe(name)
    assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert RECIPE_WORDS[RECIPE_ALIASES.get(name, name)]
    pre = settings.preprocessing
    assert len(pre.mean) == len(pre.std) == pre.channels


def test_recipes_say_what_the_papers_say() -> None:
    pam, joint, smooth = (recipe(n) for n in ("pam-unet", "joint-attention", "smooth-attention"))
    assert (pam.model, pam.optimizer, pam.lr, pam.momentum) == ("pam_unet", "sgd", 0.01, 0.9)
    assert (pam.weight_decay, pam.batch, pam.preprocessing.size) == (1e-4, 8, 128)
    assert (pam.regulariser_weight, pam.loss, pam.augmentation) == (0.01, "bce", "turns")
    assert (joint.model, dict(joint.options)) == ("dense_unet", {"attention": "ja"})
    assert (joint.lr, joint.momentum, joint.nesterov) == (1e-3, 0.9, True)
    assert (joint.preprocessing.size, joint.preprocessing.clahe_clip) == (256, 2.0)
    assert (smooth.lr, smooth.optimizer, smooth.epochs, smooth.batch) == (1e-4, "adam", 20, 8)
    assert (smooth.preprocessing.size, smooth.threshold, smooth.rule) == (224, 0.2, "paper")
    with pytest.raises(InputError, match="got recipe best, expected one of threshold-matters"):
        recipe("best")


def test_another_model_does_not_inherit_options() -> None:
    start = recipe("threshold-matters")
    assert dict(with_model(start, "unet", levels=3).options) == {"levels": 3}
    assert with_model(start, "smooth_unet", width=0.25).options["stride"] == 8
