"""How long a training will take, guessed from one step before it begins."""

from __future__ import annotations

import time
from math import ceil

import torch

from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.learner import Learner
from napari_attnseg.errors import AttnSegError
from napari_attnseg.settings import TrainSettings

SIDE = 128
"""Pixels of a side, where the settings leave it to the image."""


def seconds_of(settings: TrainSettings, images: int, device: str = "auto") -> float:
    """Seconds of all steps on ``images`` images, from the second of two steps on noise (the first
    one fills caches); 0 where such a step fails. Reading, augmenting and testing are left out."""
    try:
        learner = Learner(settings, choose_device(device), pretrained=False)
        one = min(_step(learner, settings), _step(learner, settings))
    except (AttnSegError, RuntimeError, MemoryError):
        return 0.0
    learning = max(1, round(images * (1 - settings.validation)))
    return one * ceil(learning / settings.batch) * settings.epochs


def _step(learner: Learner, settings: TrainSettings) -> float:
    side = settings.crop or settings.preprocessing.size or SIDE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.rand(settings.batch, settings.preprocessing.channels, side, side)
        start = time.monotonic()
        for _ in learner.learn(images, (images[:, 0] > 0.5).long(), 0.0, [0]):
            pass
    return time.monotonic() - start
