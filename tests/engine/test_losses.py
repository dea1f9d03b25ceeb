"""Masked losses against hand calculation and against MONAI."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from napari_attnseg.engine.losses import (
    IGNORE,
    LOSSES,
    SMOOTH,
    balanced,
    cross_entropy,
    dice_cross_entropy,
    focal,
    loss_named,
    soft_dice,
    tversky,
)
from napari_attnseg.errors import InputError
from napari_attnseg.settings import LOSS_NAMES


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


# --- several losses, class weights ----------------------------------------------------------------


def random_case(classes: int, hidden: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 7, 11, generator=generator)
    target = torch.randint(0, max(2, classes), (2, 7, 11), generator=generator)
    target[torch.rand(2, 7, 11, generator=generator) < hidden] = IGNORE
    return logits, target


def pixels(logits: torch.Tensor, target: torch.Tensor) -> list[tuple[list[float], int]]:
    """Probabilities of all classes and the true class of every labelled pixel, one by one."""
    found = []
    batch, channels, rows, columns = logits.shape
    for b in range(batch):
        for y in range(rows):
            for x in range(columns):
                true = int(target[b, y, x])
                if true == IGNORE:
                    continue
                values = [float(logits[b, c, y, x]) for c in range(channels)]
                if channels == 1:
                    p = 1 / (1 + math.exp(-values[0]))
                    found.append(([1 - p, p], int(true > 0)))
                else:
                    total = sum(math.exp(v) for v in values)
                    found.append(([math.exp(v) / total for v in values], true))
    return found


def slow_focal(logits: torch.Tensor, target: torch.Tensor, weights: list[float] | None) -> float:
    over = under = 0.0
    for p, true in pixels(logits, target):
        w = weights[true] if weights else 1.0
        over += w * (1 - p[true]) ** 2 * -math.log(p[true])
        under += w
    return over / under / logits.shape[1]  # MONAI's mean runs over the channels as well


def slow_overlap(
    logits: torch.Tensor, target: torch.Tensor, weights: list[float] | None, a: float, b: float
) -> float:
    """``1 - TP / (TP + a FP + b FN)``; a = b = 1/2 is Dice."""
    classes = max(2, logits.shape[1])
    each = []
    for c in range(1, classes):
        tp = fp = fn = 0.0
        for p, true in pixels(logits, target):
            tp += p[c] * (true == c)
            fp += p[c] * (true != c)
            fn += (1 - p[c]) * (true == c)
        each.append(1 - tp / (tp + a * fp + b * fn))
    own = weights[1:] if weights else [1.0] * len(each)
    return sum(w * e for w, e in zip(own, each, strict=True)) / sum(own)


def slow_entropy(logits: torch.Tensor, target: torch.Tensor, weights: list[float] | None) -> float:
    over = under = 0.0
    for p, true in pixels(logits, target):
        w = weights[true] if weights else 1.0
        over, under = over - w * math.log(p[true]), under + w
    return over / under


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_equals_a_loop_over_labelled_pixels(classes: int, weighted: bool) -> None:
    pytest.importorskip("monai.losses")
    logits, target = random_case(classes)
    given = [0.3, 2.0, 1.0, 5.0][: max(2, classes)] if weighted else None
    weights = None if given is None else torch.tensor(given)
    slow = {
        "bce": slow_entropy(logits, target, given),
        "focal": slow_focal(logits, target, given),
        "tversky": slow_overlap(logits, target, given, 0.3, 0.7),
        "dicece": slow_overlap(logits, target, given, 0.5, 0.5)
        + slow_entropy(logits, target, given),
    }
    assert slow.keys() == LOSSES.keys() == set(LOSS_NAMES)
    for name, wanted in slow.items():
        got = float(loss_named(name)(logits, target, weights))
        assert got == pytest.approx(wanted, rel=2e-5), name


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("classes", [1, 3])
def test_the_unlabelled_gives_no_gradient_in_any_loss(name: str, classes: int) -> None:
    pytest.importorskip("monai.losses")
    logits, target = random_case(classes)
    logits.requires_grad_(True)
    loss = loss_named(name)(logits, target, torch.tensor([1.0, 2.0, 3.0][: max(2, classes)]))
    loss.backward()
    assert logits.grad is not None
    hidden = (target == IGNORE)[:, None].expand_as(logits)
    assert torch.count_nonzero(logits.grad[hidden]) == 0
    assert torch.count_nonzero(logits.grad[~hidden]) > 0
    empty = loss_named(name)(logits, torch.full_like(target, IGNORE), None)
    assert torch.isfinite(empty)


def test_weights_equal_torchs_own_weighted_cross_entropy() -> None:
    logits, target = random_case(4, hidden=0.0)
    weights = torch.tensor([0.2, 1.0, 3.0, 0.7])
    assert float(cross_entropy(logits, target, weights)) == pytest.approx(
        float(F.cross_entropy(logits, target, weights)), rel=1e-6
    )


def test_focal_and_tversky_agree_with_monai_where_everything_is_labelled() -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target = random_case(4, hidden=0.0)
    hot = target[:, None]
    theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, hot)
    assert float(focal(logits, target)) == pytest.approx(float(theirs), rel=1e-6)
    other = losses.TverskyLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, alpha=0.3, beta=0.7
    )
    assert float(tversky(logits, target)) == pytest.approx(float(other(logits, hot)), rel=1e-5)


def test_balanced_weights_are_the_inverse_frequency() -> None:
    weights = balanced(torch.tensor([900, 90, 0, 10]))
    wanted = [1000 / (3 * 900), 1000 / (3 * 90), 0.0, 1000 / (3 * 10)]
    assert weights.tolist() == pytest.approx(wanted, rel=1e-6)
    shares = weights * torch.tensor([900.0, 90.0, 0.0, 10.0])
    assert shares.tolist() == pytest.approx([1000 / 3, 1000 / 3, 0, 1000 / 3])


def test_an_unknown_loss_is_refused_with_the_known() -> None:
    with pytest.raises(InputError, match="got loss hinge, expected bce or dicece or focal"):
        loss_named("hinge")
