"""The model, its optimiser and its step size: what one training batch does."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from napari_attnseg.engine.coarse import check_coarse, coarse_provenance, load_coarse
from napari_attnseg.engine.losses import balanced, loss_named
from napari_attnseg.engine.optimizers import build_optimizer, gammas, step_factor
from napari_attnseg.engine.precision import Precision
from napari_attnseg.errors import EngineError, InputError
from napari_attnseg.settings import TrainSettings

if TYPE_CHECKING:
    from napari_attnseg.models.base import SegmentationModel

AUXILIARY = 0.4
"""Weight of the auxiliary segmentation loss of class-aware attention (Yuan et al., ECCV 2020)."""


def build_model(
    settings: TrainSettings, notes: list[str] | None = None, pretrained: bool = True
) -> SegmentationModel:
    """A new model whose weights depend on ``settings.seed`` alone.

    With ``encoder_weights`` the encoder starts from those instead, and a refined model's coarse
    part from the checkpoint ``coarse``, unless ``pretrained`` is off; what became of them is
    added to ``notes``.

    Raises:
        InputError: the model cannot take one of the settings.
        CheckpointError: the encoder weights or the coarse checkpoint do not fit.
    """
    from napari_attnseg.models.base import create_model, model_options

    check_coarse(settings)
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
    found = []
    if settings.coarse and pretrained:
        found.append(load_coarse(model, settings))
    if settings.encoder_weights and pretrained:
        found.append(_start_encoder(model, settings))
    if notes is not None:
        notes += found
    return model


def _start_encoder(model: SegmentationModel, settings: TrainSettings) -> str:
    """Load the published weights and say what became of them."""
    from napari_attnseg.models.encoders import Encoder, load_encoder_weights

    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"got encoder weights for {settings.model}, which has no encoder that takes published "
            "ones; choose another model, or train from random weights"
        )
    report = load_encoder_weights(encoder, settings.encoder_weights)
    return f"encoder weights {Path(settings.encoder_weights).name}: {report.text}"


def step_seeds(words: list[int], parts: int) -> list[int]:
    """A seed for each of ``parts`` parts of a step, from these integers alone."""
    drawn = (np.random.SeedSequence([*words, k]).generate_state(1, np.uint64) for k in range(parts))
    return [int(state[0] >> 1) for state in drawn]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from ``seed``; afterwards the CPU's are as before."""
    generator = torch.default_generator
    state = generator.get_state()
    try:
        if device.type == "cpu":
            generator.manual_seed(seed)  # the same numbers as torch.manual_seed, 100 times quicker
        else:
            torch.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def given_weights(settings: TrainSettings) -> torch.Tensor | None:
    """The class weights that the settings give as numbers.

    Raises:
        InputError: not one number per class, or a word other than ``balanced``.
    """
    given, names = settings.class_weights, settings.class_names
    if isinstance(given, str):
        if given in ("", "balanced"):
            return None
        raise InputError(f"got class weights {given!r}, expected balanced or one number per class")
    right = len(given) == len(names) and min(given) >= 0 and max(given) > 0
    if not right or not all(map(math.isfinite, given)):
        raise InputError(
            f"got class weights {', '.join(map(str, given))}, expected {len(names)} numbers from 0 "
            f"up, one for each of {', '.join(names)}"
        )
    return torch.tensor(given, dtype=torch.float32)


class Buffers:
    """The running statistics of a model, copied aside so that a broken-off step leaves none."""

    def __init__(self, model: nn.Module) -> None:
        self._live = list(model.buffers())
        self._kept = [b.clone() for b in self._live]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    @torch.no_grad()
    def restore(self) -> None:
        """Back to what was last kept."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)


class Learner:
    """One model being trained.

    ``notes``: what the person should know before it starts. ``regulariser``: the model's own, as
    it was in the last step, unweighted; ``None`` for models without one. ``coarse``: for the card,
    what a refined model stands on.
    """

    def __init__(
        self, settings: TrainSettings, device: torch.device, pretrained: bool = True
    ) -> None:
        self.settings, self.device = settings, device
        self.notes: list[str] = []
        self.precision = Precision(settings.amp, device, self.notes)
        self.weights = given_weights(settings)
        self.model = build_model(settings, self.notes, pretrained).to(device)
        self.coarse = coarse_provenance(settings)
        self.optimizer = build_optimizer(self.model, settings)
        self._loss = loss_named(settings.loss)
        self.regulariser: float | None = None
        self._buffers = Buffers(self.model)
        self._tunables = frozenset(t.name for t in self.model.tunables)

    @property
    def gamma(self) -> float | None:
        """The (first) attention weight, ``None`` for a model without one."""
        own = gammas(self.model)
        return float(own[0].detach()) if own else None

    def values(self, threshold: float) -> dict[str, Any]:
        """What the gate is called with at this threshold (only what the model can tune)."""
        wanted = {"threshold": threshold, "rule": self.settings.rule}
        return {name: value for name, value in wanted.items() if name in self._tunables}

    def drawn_threshold(self, step: torch.Tensor | None, seed: list[int]) -> float:
        """The batch's threshold: fixed, or a random quantile of ``step`` so that all are met."""
        if self.settings.threshold_draw == "fixed" or step is None:
            return self.settings.threshold
        values = step.detach().flatten().cpu().numpy()
        return float(np.quantile(values, np.random.default_rng(seed).random()))

    def learn(
        self, images: torch.Tensor, targets: torch.Tensor, progress: float, seed: list[int]
    ) -> Generator[None, None, float]:
        """One optimiser step, yielding between its parts; returns the batch's loss.

        Closed in the middle, it leaves weights and running statistics as they were before.

        Raises:
            EngineError: the loss is no longer a number.
        """
        self._buffers.keep()
        try:
            return (yield from self._learn(images, targets, progress, seed))
        except BaseException:
            self._buffers.restore()
            raise

    def _learn(
        self, images: torch.Tensor, targets: torch.Tensor, progress: float, seed: list[int]
    ) -> Generator[None, None, float]:
        if not self.model.training:
            self.model.train()
        self._set_step_size(progress)
        before, after = step_seeds(seed, 2)
        with seeded(before, self.device), self.precision.on():
            encoded = self.model.encode(images.to(self.device))
        yield
        with seeded(after, self.device), self.precision.on():
            attended = self.model.attend(encoded)
            step = None if attended is None else attended.step
            values = self.values(self.drawn_threshold(step, seed))
            features = self.model.gate(encoded, attended, **values)
            logits = self.model.decode(features, encoded.size)
        loss = self._regularised(self._with_auxiliary(logits, targets.to(self.device)))
        yield
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.backward(loss)
        figure = self._checked(float(loss.detach()))
        yield
        self.precision.step(self.optimizer)
        return figure

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of the settings with the class weights, in full precision."""
        return self._loss(logits.float(), target, self.weights)

    def weigh(self, counts: np.ndarray) -> None:
        """Balance the classes by their labelled pixels ``counts``, if the settings say so."""
        if self.settings.class_weights == "balanced":
            self.weights = balanced(torch.from_numpy(counts))

    def _with_auxiliary(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, and that of the logits from which class-aware attention begins."""
        loss = self.loss(logits, target)
        for scores in self.model.auxiliary:
            loss = loss + AUXILIARY * self.loss(scores, target)
        return loss

    def _regularised(self, loss: torch.Tensor) -> torch.Tensor:
        """``loss + weight * regulariser`` where the model has one."""
        own = self.model.regulariser
        self.regulariser = None if own is None else float(own.detach())
        weight = self.settings.regulariser_weight
        return loss if own is None or not weight else loss + weight * own

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

    def logits(self, image: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
        """(K, h, w) logits of one prepared image (C, h, w), in evaluation mode, on the CPU."""
        return self.logits_of(image[None], values)[0]

    @torch.no_grad()
    def logits_of(self, images: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
        """(B, K, h, w) logits of prepared images (B, C, h, w), as :meth:`logits`."""
        self._evaluate()
        encoded = self.model.encode(images.to(self.device))
        attended = self.model.attend(encoded)
        features = self.model.gate(encoded, attended, **values)
        return self.model.decode(features, encoded.size).float().cpu()

    @torch.no_grad()
    def step_of(self, image: torch.Tensor) -> np.ndarray | None:
        """All ``step`` values of one prepared image, or ``None`` without attention."""
        self._evaluate()
        attended = self.model.attend(self.model.encode(image[None].to(self.device)))
        return None if attended is None else attended.step.flatten().cpu().numpy()

    def _evaluate(self) -> None:
        if self.model.training:  # walking through all modules costs as much as a small layer
            self.model.eval()
