"""Optimisers and step sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_attnseg.errors import InputError
from napari_attnseg.settings import OPTIMIZERS, SCHEDULES, TrainSettings

if TYPE_CHECKING:
    from napari_attnseg.models.base import SegmentationModel

WARM_UP = 0.25
"""Part of a one-cycle schedule in which the step size rises."""


def step_factor(schedule: str, progress: float) -> float:
    """Step size relative to ``lr`` at ``progress`` in [0, 1]; a pure function, so no state.

    ``"onecycle"`` rises as a cosine from 1/25 to 1 in the first quarter and falls as a cosine to
    1/1000; ``"cosine"`` only falls; ``"none"`` is 1.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "none":
        return 1.0
    if schedule == "cosine":
        return 0.001 + 0.999 * _fall(progress)
    if progress < WARM_UP:
        return 1 - 0.96 * _fall(progress / WARM_UP)
    return 0.001 + 0.999 * _fall((progress - WARM_UP) / (1 - WARM_UP))


def _fall(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def gammas(model: SegmentationModel) -> list[nn.Parameter]:
    """The weights of the attention branches, wherever a module declares one (see
    ``AttentionModule.weighed_by``), in the order of the model's modules."""
    names = [(module, getattr(type(module), "weighed_by", "")) for module in model.modules()]
    return [getattr(module, name) for module, name in names if name and isinstance(name, str)]


def build_optimizer(model: SegmentationModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD in two groups: gamma without decay at its own step size, then the rest.

    Raises:
        InputError: an unknown optimiser or schedule, or a momentum it cannot have.
    """
    own = gammas(model)
    held = {id(p) for p in own}
    rest = [p for p in model.parameters() if id(p) not in held and p.requires_grad]
    groups = [
        {"params": rest, "factor": 1.0, "weight_decay": settings.weight_decay},
        {
            "params": [p for p in own if p.requires_grad],
            "factor": settings.gamma_lr_factor,
            "weight_decay": 0.0,
        },
    ]
    groups = [g for g in groups if g["params"]]
    if settings.schedule not in SCHEDULES:
        raise InputError(f"got schedule {settings.schedule}, expected {' or '.join(SCHEDULES)}")
    if settings.optimizer == "sgd":
        return _sgd(groups, settings)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.optimizer not in kinds:
        raise InputError(f"got optimizer {settings.optimizer}, expected {' or '.join(OPTIMIZERS)}")
    return kinds[settings.optimizer](groups, lr=settings.lr)


def _sgd(groups: list[dict[str, object]], settings: TrainSettings) -> torch.optim.Optimizer:
    if not 0 <= settings.momentum < 1 or (settings.nesterov and not settings.momentum):
        raise InputError(
            f"got momentum {settings.momentum} with nesterov={settings.nesterov}, expected a "
            "number from 0 up to below 1, and above 0 with nesterov"
        )
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
    )
