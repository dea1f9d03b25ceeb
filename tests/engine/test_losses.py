"""Masked losses against hand calculation and against MONAI."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from napari_attnseg.engine.losses import (
    IGNORE,
    SMOOTH,
    cross_entropy,
    dice_cross_entropy,
    soft_dice,
)


def test_binary_cross_entropy_by_hand_leaves_the_unlabelled_pixel_out() -> None:
    logits = torch.tensor([[[[0.0, math.log(3.0), 50.0]]]])  # p = 1/2, 3/4, 1
    target = torch.tensor([[[1, 0, IGNORE]]])
    wanted = (math.log(2) + math.log(4)) / 2
    assert float(cross_entropy(logits, target)) == pytest.approx(wanted, rel=1e-6)


def test_binary_dice_by_hand_leaves_the_unlabelled_pixel_out() -> None:
    logits = torch.tensor([[[[0.0, math.log(3.0), 50.0]]]])
    target = torch.tensor([[[1, 0, IGNORE]]])
    wanted = 1 - (2 * 0.5 + SMOOTH) / (0.5 + 0.75 + 1 + SMOOTH)
    assert float(soft_dice(logits, target)) == pytest.approx(wanted, rel=1e-6)


def test_several_classes_by_hand() -> None:
    # two labelled pixels with probabilities (1/2, 1/4, 1/4) and (1/6, 1/3, 1/2), one unlabelled
    weights = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 99.0]])
    logits = weights.log().T[None, :, None, :]
    target = torch.tensor([[[0, 2, IGNORE]]])
    assert float(cross_entropy(logits, target)) == pytest.approx(math.log(2), rel=1e-6)
    first = 1 - SMOOTH / (0.25 + 1 / 3 + SMOOTH)
    second = 1 - (2 * 0.5 + SMOOTH) / (0.25 + 0.5 + 1 + SMOOTH)
    assert float(soft_dice(logits, target)) == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("classes", [1, 4])
def test_what_is_unlabelled_has_no_influence_and_no_gradient(classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 7, 11, requires_grad=True)
    target = torch.randint(0, max(2, classes), (2, 7, 11))
    hidden = torch.rand(2, 7, 11) < 0.4
    target[hidden] = IGNORE
    loss = dice_cross_entropy(logits, target)
    loss.backward()
    assert logits.grad is not None
    spread = hidden[:, None].expand_as(logits)
    assert torch.count_nonzero(logits.grad[spread]) == 0
    assert torch.count_nonzero(logits.grad[~spread]) > 0
    changed = torch.where(spread, torch.full_like(logits, 7.0), logits)
    assert float(dice_cross_entropy(changed, target).detach()) == float(loss.detach())


def test_nothing_labelled_costs_nothing_and_stays_a_number() -> None:
    logits = torch.randn(1, 3, 4, 5, requires_grad=True)
    loss = dice_cross_entropy(logits, torch.full((1, 4, 5), IGNORE))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0.0


def test_agrees_with_monai_where_everything_is_labelled() -> None:
    losses = pytest.importorskip("monai.losses")
    torch.manual_seed(1)
    logits, target = torch.randn(3, 4, 9, 13), torch.randint(0, 4, (3, 9, 13))
    theirs = losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    hot = target[:, None]
    # MONAI's cross-entropy part includes the background class, as ours does
    assert float(dice_cross_entropy(logits, target)) == pytest.approx(
        float(theirs(logits, hot)), rel=1e-5
    )


def test_agrees_with_monai_for_one_class() -> None:
    losses = pytest.importorskip("monai.losses")
    torch.manual_seed(2)
    logits, target = torch.randn(3, 1, 9, 13), torch.randint(0, 2, (3, 9, 13))
    theirs = losses.DiceLoss(sigmoid=True, batch=True)(logits, target[:, None])
    plain = F.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    assert float(dice_cross_entropy(logits, target)) == pytest.approx(
        float(theirs + plain), rel=1e-5
    )
