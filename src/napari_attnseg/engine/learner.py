"""The model, its optimiser and its step size: what one training batch does."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from napari_attnseg.engine.losses import LOSSES
from napari_attnseg.errors import EngineError, InputError
from napari_attnseg.settings import TrainSettings

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


def build_model(settings: TrainSettings) -> SegmentationModel:
    """A new model whose weights depend on ``settings.seed`` alone.

    With ``encoder_weights`` the encoder starts from that file instead.

    Raises:
        InputError: the model's attention cannot take one of the settings.
        CheckpointError: the encoder weights do not fit this encoder.
    """
    from napari_attnseg.models.base import create_model, model_options
    from napari_attnseg.models.encoders import load_encoder_weights

    known = model_options(settings.model)
    wanted = {"rule": settings.rule, "threshold": settings.threshold}
    options = {k: v for k, v in wanted.items() if k in known} | dict(settings.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = create_model(
            settings.model,
            in_channels=settings.preprocessing.channels,
            classes=settings.classes,
            **options,
        )
    with torch.no_grad():
        for gamma in gammas(model):
            gamma.fill_(settings.gamma_start)
    if settings.encoder_weights:
        load_encoder_weights(model.encoder, settings.encoder_weights)
    return model


def gammas(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the attention branches."""
    return [p for name, p in model.named_parameters() if name.split(".")[-1] == "gamma"]


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam or AdamW in two groups: gamma without decay at its own step size, then the rest."""
    own = gammas(model)
    held = {id(p) for p in own}
    rest = [p for p in model.parameters() if id(p) not in held]
    groups = [
        {"params": rest, "factor": 1.0, "weight_decay": settings.weight_decay},
        {"params": own, "factor": settings.gamma_lr_factor, "weight_decay": 0.0},
    ]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.optimizer not in kinds:
        raise InputError(f"got optimizer {settings.optimizer}, expected {' or '.join(kinds)}")
    return kinds[settings.optimizer]([g for g in groups if g["params"]], lr=settings.lr)


@contextmanager
def seeded(words: list[int]) -> Iterator[None]:
    """Torch's random numbers from these integers alone; afterwards its state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))
        yield


class Learner:
    """One model being trained. ``values``: the tunables of the batch in hand (threshold, rule)."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        if settings.loss not in LOSSES:
            raise InputError(f"got loss {settings.loss}, expected {' or '.join(LOSSES)}")
        self.settings, self.device = settings, device
        self.model = build_model(settings).to(device)
        self.optimizer = build_optimizer(self.model, settings)
        self.loss = LOSSES[settings.loss]

    @property
    def gamma(self) -> float:
        """The (first) attention weight, 0.0 for a model without one."""
        own = gammas(self.model)
        return float(own[0].detach()) if own else 0.0

    def values(self, threshold: float) -> dict[str, Any]:
        """What the gate is called with at this threshold (only what the model can tune)."""
        known = {t.name for t in self.model.tunables}
        wanted = {"threshold": threshold, "rule": self.settings.rule}
        return {name: value for name, value in wanted.items() if name in known}

    def drawn_threshold(self, step: torch.Tensor | None, rng: np.random.Generator) -> float:
        """The batch's threshold: fixed, or a random quantile of ``step`` so that all are met."""
        if self.settings.threshold_draw == "fixed" or step is None:
            return self.settings.threshold
        values = step.detach().flatten().cpu().numpy()
        return float(np.quantile(values, rng.random()))

    def learn(
        self, images: torch.Tensor, targets: torch.Tensor, progress: float, seed: list[int]
    ) -> Generator[None, None, float]:
        """One optimiser step, yielding between its parts; returns the batch's loss.

        Closed in the middle, it leaves weights and running statistics as they were before.

        Raises:
            EngineError: the loss is no longer a number.
        """
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        try:
            return (yield from self._learn(images, targets, progress, seed))
        except BaseException:
            for name, value in self.model.named_buffers():
                value.copy_(before[name])
            raise

    def _learn(
        self, images: torch.Tensor, targets: torch.Tensor, progress: float, seed: list[int]
    ) -> Generator[None, None, float]:
        self.model.train()
        self._set_step_size(progress)
        with seeded([*seed, 0]):
            encoded = self.model.encode(images.to(self.device))
        yield
        with seeded([*seed, 1]):
            attended = self.model.attend(encoded)
            step = None if attended is None else attended.step
            values = self.values(self.drawn_threshold(step, np.random.default_rng(seed)))
            features = self.model.gate(encoded, attended, **values)
            logits = self.model.decode(features, encoded.size)
        loss = self.loss(logits, targets.to(self.device))
        figure = self._checked(float(loss.detach()))
        yield
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        yield
        self.optimizer.step()
        return figure

    def _set_step_size(self, progress: float) -> None:
        factor = step_factor(self.settings.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * factor * group["factor"]

    def _checked(self, loss: float) -> float:
        if math.isfinite(loss):
            return loss
        raise EngineError(
            f"got a loss of {loss}, expected a number; train again with a smaller lr than "
            f"{self.settings.lr:g} (the best model so far is kept)"
        )

    @torch.no_grad()
    def logits(self, image: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
        """(K, h, w) logits of one prepared image (C, h, w), in evaluation mode, on the CPU."""
        self.model.eval()
        encoded = self.model.encode(image[None].to(self.device))
        attended = self.model.attend(encoded)
        features = self.model.gate(encoded, attended, **values)
        return self.model.decode(features, encoded.size)[0].float().cpu()

    @torch.no_grad()
    def step_of(self, image: torch.Tensor) -> np.ndarray | None:
        """All ``step`` values of one prepared image, or ``None`` without attention."""
        self.model.eval()
        attended = self.model.attend(self.model.encode(image[None].to(self.device)))
        return None if attended is None else attended.step.flatten().cpu().numpy()
