"""Messages of the overfit-one-image check: whether a model with these settings can learn at all."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.settings import TrainSettings


@dataclass(frozen=True)
class Overfit(Request):
    """Long: train a fresh model on one image for ``steps`` steps; nothing is written.

    The data as in ``Train``. Events: ``OverfitStep`` per step, ``OverfitDone``, ``Finished``.
    """

    settings: TrainSettings = field(default_factory=TrainSettings)
    images: str = ""
    masks: str = ""
    image: ImageRef | None = None
    labels: str = ""
    device: str = "auto"
    steps: int = 100


@dataclass(frozen=True)
class OverfitStep(Event):
    """Step ``step`` of ``steps``: its training loss, and Dice on the image as last measured."""

    step: int = 0
    steps: int = 0
    loss: float = 0.0
    dice: float = 0.0


@dataclass(frozen=True)
class OverfitDone(Event):
    """``verdict``: ``"learns"``, ``"slow"`` or ``"stuck"``; ``text`` says it in one sentence."""

    verdict: str = "stuck"
    text: str = ""
    first_loss: float = 0.0
    last_loss: float = 0.0
    dice: float = 0.0
    steps: int = 0
    seconds: float = 0.0
