"""Losses that leave unlabelled pixels out: cross-entropy, and Dice + cross-entropy.

A target is an integer map (B, H, W): 0 background, 1, 2, ... classes, ``IGNORE`` = not labelled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

IGNORE = -1
"""Target value of pixels that nobody labelled; they weigh nothing."""

SMOOTH = 1e-5
"""Added to both halves of the Dice fraction, as MONAI's ``DiceLoss`` does."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean (binary) cross-entropy over the labelled pixels; 0 when there are none.

    Args:
        logits: (B, 1, H, W), one foreground logit, or (B, K, H, W), background included.
        target: (B, H, W) integers; for one logit every class above 0 is foreground.
    """
    known = target != IGNORE
    if logits.shape[1] == 1:
        wanted = (target > 0).to(logits.dtype)
        every = F.binary_cross_entropy_with_logits(logits[:, 0], wanted, reduction="none")
    else:
        every = F.cross_entropy(logits, target.clamp(min=0).long(), reduction="none")
    return (every * known).sum() / known.sum().clamp(min=1)


def soft_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``1 - Dice`` of the probabilities, per class over the batch's labelled pixels, then mean.

    The sums run over the whole batch (a crop without a class would otherwise count as a full
    error), and with several classes over the foreground classes.
    """
    known = (target != IGNORE).to(logits.dtype)[:, None]
    if logits.shape[1] == 1:
        probability = torch.sigmoid(logits)
        wanted = (target > 0).to(logits.dtype)[:, None]
    else:
        probability = logits.softmax(1)[:, 1:]
        hot = F.one_hot(target.clamp(min=0).long(), logits.shape[1])
        wanted = hot.permute(0, 3, 1, 2)[:, 1:].to(logits.dtype)
    probability, wanted = probability * known, wanted * known
    both = (probability * wanted).sum((0, 2, 3))
    total = (probability + wanted).sum((0, 2, 3))
    return (1 - (2 * both + SMOOTH) / (total + SMOOTH)).mean()


def dice_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """:func:`soft_dice` + :func:`cross_entropy`, equal weights."""
    return soft_dice(logits, target) + cross_entropy(logits, target)


LOSSES: dict[str, Loss] = {"bce": cross_entropy, "dicece": dice_cross_entropy}
"""Losses by the name in ``TrainSettings.loss``."""
