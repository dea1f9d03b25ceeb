"""Losses that leave unlabelled pixels out: cross-entropy, Dice + cross-entropy, focal, Tversky.

A target is an integer map (B, H, W), of volumes (B, D, H, W): 0 background, 1, 2, ... classes,
``IGNORE`` = not labelled.
``weights`` (K,), background first, are given for rare classes: a pixel counts in means over
pixels by the weight of its class, a foreground class likewise in means over classes. Without
unlabelled pixels and weights the four equal MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional as F

from napari_attnseg.errors import InputError

IGNORE = -1
"""Target value of pixels that nobody labelled; they weigh nothing."""

SMOOTH = 1e-5
"""Added to both halves of the Dice fraction, as MONAI's ``DiceLoss`` does."""
FOCUS = 2.0
"""Exponent of the focal loss (Lin et al. 2017)."""
TVERSKY = (0.3, 0.7)
"""Weights of false positives and false negatives (Salehi et al. 2017): rather too much found."""

Weights: TypeAlias = "torch.Tensor | None"
Loss = Callable[[torch.Tensor, torch.Tensor, Weights], torch.Tensor]


def pixel_weights(target: torch.Tensor, weights: Weights, dtype: torch.dtype) -> torch.Tensor:
    """(B, H, W): the weight of every pixel's class (1 without weights), 0 where unlabelled."""
    known = (target != IGNORE).to(dtype)
    if weights is None:
        return known
    index = target.clamp(min=0, max=len(weights) - 1).long()
    return known * weights.to(known)[index]


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weights: Weights = None
) -> torch.Tensor:
    """Mean (binary) cross-entropy over the labelled pixels; 0 when there are none.

    Args:
        logits: (B, 1, H, W), one foreground logit, or (B, K, H, W), background included.
        target: (B, H, W) integers; for one logit every class above 0 is foreground.
        weights: (K,), see above; the mean is over the weights, as torch's own.
    """
    if logits.shape[1] == 1:
        wanted = (target > 0).to(logits.dtype)
        every = F.binary_cross_entropy_with_logits(logits[:, 0], wanted, reduction="none")
    else:
        every = F.cross_entropy(logits, target.clamp(min=0).long(), reduction="none")
    return _mean(every, pixel_weights(target, weights, every.dtype), weights)


def _mean(every: torch.Tensor, count: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Mean of (B, H, W) by ``count``; 0 when that is empty."""
    total = count.sum()
    floor = 1.0 if weights is None else torch.finfo(count.dtype).tiny
    return (every * count).sum() / total.clamp(min=floor)


def masked_maps(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and one-hot targets of the foreground classes, both 0 where unlabelled.

    (B, F, H, W) each, F = 1 for one logit and K - 1 otherwise. Zeroed pixels are neither true
    nor false positives nor negatives.
    """
    known = (target != IGNORE).to(logits.dtype)[:, None]
    if logits.shape[1] == 1:
        probability = torch.sigmoid(logits)
        wanted = (target > 0).to(logits.dtype)[:, None]
    else:
        probability = logits.softmax(1)[:, 1:]
        hot = F.one_hot(target.clamp(min=0).long(), logits.shape[1])
        wanted = hot.movedim(-1, 1)[:, 1:].to(logits.dtype)
    return probability * known, wanted * known


def _over_classes(every: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Mean of (F,), one figure per foreground class, by the classes' weights."""
    if weights is None or len(every) == 1:
        return every.mean()
    own = weights[1:].to(every)
    return (every * own).sum() / own.sum().clamp(min=torch.finfo(own.dtype).tiny)


def soft_dice(logits: torch.Tensor, target: torch.Tensor, weights: Weights = None) -> torch.Tensor:
    """``1 - Dice`` of the probabilities, per class over the batch's labelled pixels, then mean.

    The sums run over the whole batch (a crop without a class would otherwise count as a full
    error), and with several classes over the foreground classes.
    """
    probability, wanted = masked_maps(logits, target)
    axes = (0, *range(2, logits.ndim))
    both = (probability * wanted).sum(axes)
    total = (probability + wanted).sum(axes)
    return _over_classes(1 - (2 * both + SMOOTH) / (total + SMOOTH), weights)


def dice_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, weights: Weights = None
) -> torch.Tensor:
    """:func:`soft_dice` + :func:`cross_entropy`, equal weights (MONAI's ``DiceCELoss``)."""
    return soft_dice(logits, target, weights) + cross_entropy(logits, target, weights)


def focal(logits: torch.Tensor, target: torch.Tensor, weights: Weights = None) -> torch.Tensor:
    """MONAI's ``FocalLoss``, gamma 2, softmax for several classes: ``-(1 - p)^2 log p`` of the
    true class. Mean over labelled pixels (and, as there, over the K channels); 0 without any."""
    from monai.losses import FocalLoss

    several = logits.shape[1] > 1
    if several:
        hot = F.one_hot(target.clamp(min=0).long(), logits.shape[1]).movedim(-1, 1)
    else:
        hot = (target > 0)[:, None]
    loss = FocalLoss(gamma=FOCUS, use_softmax=several, reduction="none")
    every = loss(logits, hot.to(logits.dtype)).mean(1)
    return _mean(every, pixel_weights(target, weights, every.dtype), weights)


def tversky(logits: torch.Tensor, target: torch.Tensor, weights: Weights = None) -> torch.Tensor:
    """MONAI's ``TverskyLoss`` over the batch, ``1 - TP / (TP + 0.3 FP + 0.7 FN)`` per foreground
    class, then mean; unlabelled pixels are taken out of both maps before."""
    from monai.losses import TverskyLoss

    alpha, beta = TVERSKY
    probability, wanted = masked_maps(logits, target)
    loss = TverskyLoss(
        alpha=alpha, beta=beta, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, reduction="none"
    )
    return _over_classes(loss(probability, wanted).flatten(), weights)


LOSSES: dict[str, Loss] = {
    "bce": cross_entropy,
    "dicece": dice_cross_entropy,
    "focal": focal,
    "tversky": tversky,
}
"""Losses by the name in ``TrainSettings.loss``."""


def loss_named(name: str) -> Loss:
    """The loss called ``name``; raises ``InputError`` with the known names otherwise."""
    if name not in LOSSES:
        raise InputError(f"got loss {name}, expected {' or '.join(LOSSES)}")
    return LOSSES[name]


def balanced(counts: torch.Tensor) -> torch.Tensor:
    """Inverse frequency of each class, ``n / (K n_k)``, over the K classes that occur; classes
    without a pixel weigh 0 (nothing can be learnt of them)."""
    counts = counts.double()
    seen = counts > 0
    weights = counts.sum() / (seen.sum().clamp(min=1) * counts.clamp(min=1))
    return torch.where(seen, weights, 0.0).float()
