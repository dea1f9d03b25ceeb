"""A refinement on the masks of another model: what comes from the one, what from the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lively import lively_model

from napari_attnseg.cards import Card
from napari_attnseg.engine.coarse import refining
from napari_attnseg.engine.on_top import OnTop, as_channels
from napari_attnseg.engine.predict import cut_logits
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.checkpoint import save_checkpoint
from napari_attnseg.models.refined import LIMIT
from napari_attnseg.settings import Preprocessing, recipe
from refined_models import refined_checkpoint

IMAGE = np.random.default_rng(6).random((2, 37, 45)).astype(np.float32)


def model_session(classes: int, names: tuple[str, ...], size: int | None = None) -> Session:
    model = lively_model(classes)
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,), size=size)
    about = {"preprocessing": preprocessing, "class_names": names, "tuning": model.tuning()}
    session = Session(model, "cpu", card=Card(spec=model.spec.to_json(), **about))
    assert session.card.class_names == names
    assert session.card.preprocessing == preprocessing
    return session


@pytest.fixture(scope="module", params=["cspn", "dyspn"])
def refined(request, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("top") / f"{request.param}.safetensors"
    return refined_checkpoint(tiny_checkpoint, out, request.param)


def halves(session: Session, z: int = 0) -> float:
    """A cut that gives both classes in slice ``z``."""
    session.set_image(IMAGE)
    return float(np.median(session.predict(z).probability))


def test_on_its_own_coarse_model_it_is_the_refined_model(refined, tiny_checkpoint) -> None:
    whole = Session(refined, "cpu")
    both = OnTop(Session(tiny_checkpoint, "cpu"), Session(refined, "cpu"))
    tuning = whole.tuning.replace(cut=halves(whole))
    both.set_image(IMAGE)
    for z, found in both.run(tuning):
        told = whole.predict(z, tuning)
        assert 0.1 < told.labels.mean() < 0.9
        assert np.array_equal(found.labels, told.labels)
        assert np.allclose(found.probability, told.probability, atol=1e-6)
        for own, other in zip(both.steps(z, tuning), whole.steps(z, tuning), strict=True):
            assert (own.number, own.changed) == (other.number, other.changed)
            assert np.array_equal(own.labels, other.labels)


def test_the_coarse_map_is_the_other_models_alone(refined) -> None:
    other = model_session(1, ("background", "cells"), size=29)
    refiner = Session(refined, "cpu")
    both = OnTop(other, refiner)
    both.set_image(IMAGE)
    assert both.card.class_names == ("background", "cells")
    told = other.predict(1, other.tuning.replace(cut=halves(other, 1)))
    tuning = refiner.tuning.replace(cut=halves(other, 1))
    first, *_, last = both.steps(1, tuning)
    assert np.array_equal(first.labels, told.labels)
    assert 0.1 < told.labels.mean() < 0.9
    assert not np.allclose(last.probability, first.probability, atol=1e-3)
    with torch.no_grad():
        for parameter in refiner.model.coarse.parameters():
            parameter.zero_()
    assert np.array_equal(both.steps(1, tuning)[-1].labels, last.labels)
    moved = OnTop(other, refiner, other.tuning.replace(threshold=2.0, gamma=0.0))
    assert not np.allclose(moved.steps(1)[0].probability, first.probability, atol=1e-3)


def test_flips_reach_both_models(refined, tiny_checkpoint) -> None:
    whole = Session(refined, "cpu")
    both = OnTop(Session(tiny_checkpoint, "cpu"), Session(refined, "cpu"))
    for session in (whole, both.coarse, both.refiner):
        session.set_image(IMAGE, flips=(False, True, False))
    ((_, found), _) = both.run()
    assert np.allclose(found.probability, whole.predict(0).probability, atol=1e-6)
    whole.set_image(IMAGE)
    assert not np.allclose(found.probability, whole.predict(0).probability, atol=1e-3)


def test_one_class_in_one_channel_or_in_two() -> None:
    one, two = torch.randn(1, 1, 5, 7), torch.randn(1, 2, 5, 7)
    for logits, channels in ((one, 2), (two, 1), (one, 1), (two, 2)):
        told, found = cut_logits(logits[0], 0.3), cut_logits(as_channels(logits, channels)[0], 0.3)
        assert torch.allclose(told.probability, found.probability, atol=1e-6)
        assert torch.equal(told.labels, found.labels)
    with pytest.raises(InputError, match="expected 2"):
        as_channels(torch.zeros(1, 3, 2, 2), 2)


def test_several_classes(tmp_path: Path) -> None:
    names = ("background", "liver", "spleen")
    coarse = model_session(3, names)
    save_checkpoint(tmp_path / "three.safetensors", coarse.model, coarse.card)
    out = refined_checkpoint(tmp_path / "three.safetensors", tmp_path / "r.safetensors")
    both = OnTop(coarse, Session(out, "cpu"))
    both.set_image(IMAGE)
    first, *_, last = both.steps(0)
    assert np.abs(coarse.predict(0).logits).max() > LIMIT
    assert np.array_equal(first.labels, coarse.predict(0).labels)
    assert set(np.unique(first.labels)) == {0, 1, 2}
    assert last.changed >= 0
    assert not np.array_equal(last.labels, first.labels)
    for card in (
        replace(coarse.card, class_names=("background", "spleen", "liver")),
        replace(coarse.card, class_names=("background", "liver")),
    ):
        other = Session(
            lively_model(len(card.class_names) if len(card.class_names) > 2 else 1),
            "cpu",
            card=card,
        )
        with pytest.raises(InputError, match="refinement of liver, spleen for masks of"):
            OnTop(other, Session(out, "cpu"))


def test_a_model_without_refinement_refines_nothing(tiny_checkpoint) -> None:
    one = Session(tiny_checkpoint, "cpu")
    with pytest.raises(InputError, match="choose a refined one"):
        OnTop(one, one)


def test_a_2d_refinement_walks_through_the_slices_of_a_3d_model(refined, tmp_path) -> None:
    """Its coarse maps are the logits of the windows; the last iterate is the refiner's own."""
    torch.manual_seed(2)
    wish = {"attention": "bottleneck=se", "width": 0.07, "levels": 1, "ndim": 3}
    model = create_model("placed_unet", in_channels=1, **wish)
    pre = Preprocessing(patch=(4, 16, 16))
    names = ("background", "cells")
    about = {"preprocessing": pre, "class_names": names, "tuning": model.tuning()}
    save_checkpoint(tmp_path / "whole.safetensors", model, Card(spec=model.spec.to_json(), **about))
    volume = np.random.default_rng(8).random((6, 33, 41)).astype(np.float32)
    coarse, refiner = Session(tmp_path / "whole.safetensors", "cpu"), Session(refined, "cpu")
    both = OnTop(coarse, refiner)
    both.set_image(volume)
    assert coarse.windows > 4
    alone = Session(refined, "cpu")
    alone.set_image(volume)
    seen = []
    for z, found in both.run():
        seen.append(z)
        logits = torch.from_numpy(coarse.predict(z).logits)[None]
        with torch.no_grad():
            start = alone.model.guide_from(alone._prepare(z), logits)
            expected = cut_logits(alone.model.propagate(start)[0], 0.5)
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)
    assert seen == list(range(6))
    first, *_ = both.steps(3)
    assert np.array_equal(first.labels, coarse.predict(3).labels)
    assert both.provenance()["window"] == [4, 16, 16]
    with pytest.raises(InputError, match="one of slices"):
        refining(recipe("refinement"), tmp_path / "whole.safetensors")
