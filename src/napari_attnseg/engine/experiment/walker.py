"""A classical peer: the random walker, seeded by what a coarse model is sure of.

Grady, Random Walks for Image Segmentation (PAMI 2006), as scikit-image has it. Pixels whose best
class has a probability of ``sure`` or more are seeds; all others get the class that a walk over
the image, which crosses edges reluctantly (``beta``), meets first. Like CSPN it carries answers
from pixel to pixel, with weights that come from the image's colours instead of a network.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from skimage.segmentation import random_walker

from napari_attnseg.engine.session import Session
from napari_attnseg.engine.values import checked_values

TINY = 1e-6
CHOICES = tuple((sure, beta) for sure in (0.6, 0.75, 0.9) for beta in (30.0, 130.0, 500.0))
"""What is tried on training images."""


@dataclass(frozen=True)
class Walker:
    """A random walker with its two values."""

    sure: float
    beta: float

    def walk(self, image_CYX: np.ndarray, shares_KYX: np.ndarray) -> np.ndarray:
        """Probabilities (K, Y, X) of all classes, from those of the coarse model; these come back
        as they are where fewer than two classes have a seed."""
        best = shares_KYX.max(0)
        seeds = np.where(best >= self.sure, shares_KYX.argmax(0) + 1, 0)
        present = np.unique(seeds[seeds > 0])
        if len(present) < 2 or (seeds > 0).all() or not image_CYX.std() > 0:
            return shares_KYX
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an optional solver, and about lone pixels
            found = random_walker(
                np.moveaxis(image_CYX, 0, -1).astype(np.float64),
                seeds,
                beta=self.beta,
                mode="cg_j",
                return_full_prob=True,
                channel_axis=-1,
            )
        shares = np.zeros_like(shares_KYX)
        shares[present - 1] = found.clip(0, 1)
        met = shares.sum(0) > 0.5  # pixels shut in by others meet no seed and keep their answer
        return np.where(met, shares, shares_KYX)

    def logits(self, image: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """(1, K, Y, X) from a prepared image (1, C, Y, X) and the coarse model's logits."""
        shares = self.walk(image[0].cpu().numpy(), shares_of(logits[0].cpu()))
        log = torch.from_numpy(np.log(shares + TINY)).float()
        return (log[1:] - log[:1])[None] if logits.shape[1] == 1 else log[None]


def shares_of(logits_KYX: torch.Tensor) -> np.ndarray:
    """Probabilities of all classes, background first, also for a single foreground logit."""
    if len(logits_KYX) == 1:
        p = torch.sigmoid(logits_KYX[0].float())
        return torch.stack([1 - p, p]).numpy()
    return torch.softmax(logits_KYX.float(), 0).numpy()


class Walked:
    """A session's answers after a walker went over them, at the model's working size.

    ``milliseconds``: how long every walk took.
    """

    def __init__(self, session: Session, walker: Walker) -> None:
        self.session, self.walker = session, walker
        self.milliseconds: list[float] = []

    def answer(self, z: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probability (Y, X) of slice ``z``, as in ``Prediction``."""
        return self.session._guarded(lambda: self._answer(z))

    def _answer(self, z: int) -> tuple[np.ndarray, np.ndarray]:
        session = self.session
        values = checked_values(session.model.tunables, session.tuning)
        logits, _, _ = session.pipeline.logits(z, values)
        image = session.pipeline.chain.ask(z, {**values, "z": z, "over": -1}, upto="prepare")
        start = time.perf_counter()
        walked = self.walker.logits(image, logits)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        answer = session.pipeline.finish(walked.to(logits.device), values)
        return session._back(answer.labels), session._back(answer.probability)
