"""The weights of attention branches are found wherever attention stands, and start as asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.optimizers import build_optimizer, gammas
from napari_attnseg.models import create_model
from napari_attnseg.settings import Preprocessing, TrainSettings, recipe, with_model

PLACED = "skip[0]=criss_cross; skip[1]=channel; decoder[1]=position; bottleneck=smooth"
FOUND = {f"placed.{i}.module.gamma" for i in range(4)}
SMALL = TrainSettings(
    model="placed_unet",
    options={"attention": PLACED, "width": 0.125, "levels": 2},
    preprocessing=Preprocessing(channels=1),
    optimizer="sgd",
    momentum=0.0,
    lr=0.5,
    gamma_start=0.25,
    gamma_lr_factor=8.0,
)


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        ("smooth_unet", {"width": 0.125}, {"attention.gamma"}),
        ("placed_unet", {"attention": PLACED, "width": 0.125, "levels": 2}, FOUND),
        ("placed_unet", {"attention": "skip[0]=cbam; bottleneck=ema", "width": 0.125}, set()),
        ("unet", {"width": 0.125}, set()),
    ],
)
def test_they_are_those_of_the_attention_alone(
    model: str, options: dict[str, object], names: set[str]
) -> None:
    made = create_model(model, **options)  # type: ignore[arg-type]
    by_id = {id(p): n for n, p in made.named_parameters()}
    found = [by_id[id(p)] for p in gammas(made)]
    assert set(found) == names
    assert len(found) == len(names)


def test_every_one_begins_and_steps_as_asked() -> None:
    learner = Learner(SMALL, torch.device("cpu"))
    own = gammas(learner.model)
    assert [float(g.detach()) for g in own] == [0.25] * 4
    other = learner.model.head.weight
    before = other.detach().clone()
    optimizer = build_optimizer(learner.model, SMALL)
    for group in optimizer.param_groups:
        group["lr"] = SMALL.lr * group["factor"]
    for p in learner.model.parameters():
        p.grad = torch.full_like(p, 0.01)
    optimizer.step()
    for gamma in own:
        assert float(gamma.detach()) == pytest.approx(0.25 - 8 * 0.5 * 0.01)
    torch.testing.assert_close(other.detach(), before - 0.5 * 0.01)


def test_each_weight_is_held_once_and_gamma_does_not_decay() -> None:
    learner = Learner(replace(SMALL, weight_decay=0.1), torch.device("cpu"))
    rest, own = build_optimizer(learner.model, learner.settings).param_groups
    assert (rest["weight_decay"], own["weight_decay"]) == (0.1, 0.0)
    assert len(own["params"]) == 4
    count = sum(1 for _ in learner.model.parameters())
    assert len({id(p) for p in (*rest["params"], *own["params"])}) == count


def test_another_model_begins_at_zero_unless_asked() -> None:
    start = recipe("threshold-matters")
    assert start.gamma_start > 0
    assert with_model(start, "placed_unet", attention=PLACED).gamma_start == 0.0
    assert with_model(start, start.model, width=0.25).gamma_start == start.gamma_start
