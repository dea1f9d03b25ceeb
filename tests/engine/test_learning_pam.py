"""PAM-UNet's objective: segmentation loss plus lambda times its regulariser (equations 6 to 8)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.losses import cross_entropy
from napari_attnseg.settings import TrainSettings

OPTIONS = {"plan": "tiny", "width": 0.5, "sigma": "sigmoid"}


def learner(weight: float) -> Learner:
    settings = TrainSettings(
        model="pam_unet", options=OPTIONS, lr=0.01, optimizer="sgd", regulariser_weight=weight
    )
    return Learner(settings, torch.device("cpu"))


def batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    return images, (images[:, 0] > 0.6).long()


def one_step(own: Learner) -> float:
    """The loss that the step reports."""
    step = own.learn(*batch(), progress=0.5, seed=[0])
    while True:
        try:
            next(step)
        except StopIteration as end:
            return float(end.value)


def test_one_half_everywhere_costs_the_logarithm_of_two() -> None:
    images, targets = batch()
    assert float(cross_entropy(torch.zeros_like(images), targets)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("weight", [0.0, 0.01, 30.0])
def test_the_loss_is_the_cross_entropy_and_the_weighted_regulariser(weight: float) -> None:
    images, targets = batch()
    bare = learner(weight).model.train()
    logits = bare(images)
    entropy = F.binary_cross_entropy(torch.sigmoid(logits[:, 0]), targets.float())
    own = learner(weight)
    assert one_step(own) == pytest.approx(float((entropy + weight * bare.regulariser).detach()))
    assert own.regulariser == pytest.approx(float(bare.regulariser.detach()))
    assert 0 < own.regulariser <= 0.25


def test_without_weight_it_is_plain_training_and_with_it_is_not() -> None:
    images, targets = batch()
    bare = learner(0.0)
    own, heavy = learner(0.0), learner(30.0)
    F.binary_cross_entropy_with_logits(bare.model.train()(images)[:, 0], targets.float()).backward()
    bare.optimizer.step()
    one_step(own)
    one_step(heavy)
    name = "levels.0.gate.query.weight"
    for key, value in bare.model.named_parameters():
        torch.testing.assert_close(own.model.get_parameter(key), value, msg=key)
    plain, pulled = (one.model.get_parameter(name) for one in (own, heavy))
    assert not torch.allclose(plain, pulled, rtol=1e-4, atol=1e-6)
