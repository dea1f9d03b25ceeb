"""The iterations of a refined model on one slice: every mask between the coarse and the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from napari_attnseg.engine.pipeline import Pipeline
from napari_attnseg.errors import InputError
from napari_attnseg.models.refined import Guided, RefinedModel


@dataclass(frozen=True, eq=False)
class Step:
    """One iterate of a slice, in view orientation; ``number`` 0 is the coarse mask.

    ``labels``: uint8 (Y, X) class ids. ``probability``: float32 (Y, X), as in ``Prediction``.
    ``changed``: pixels that have another class than in the iterate before (0 for the first).
    """

    number: int
    labels: np.ndarray
    probability: np.ndarray
    changed: int


def refined_model(model: Any) -> RefinedModel:
    """The model, if it is refined; raises ``InputError`` otherwise."""
    if not isinstance(model, RefinedModel):
        raise InputError(
            "this model refines nothing step by step; choose a refined one (trained with --refine)"
        )
    return model


def guided(pipeline: Pipeline, z: int, values: Mapping[str, Any]) -> Guided:
    """What the iterations of slice ``z`` start from, at working size (see ``RefinedModel.guide``,
    which keeps it for the slices seen last)."""
    model = refined_model(pipeline.model)
    heavy = pipeline.attended(z, values)
    gate = (t.name for t in model.tunables if t.stage == "gate" and t.name != "iterations")
    return model.guide(heavy.encoded, heavy.attended, **{name: values[name] for name in gate})


def iterate(
    pipeline: Pipeline,
    z: int,
    values: Mapping[str, Any],
    back: Callable[[torch.Tensor], np.ndarray],
) -> tuple[Step, ...]:
    """Iterates 0 to ``values["iterations"]`` of slice ``z``; ``back`` brings a result to view
    orientation. The last one is what the pipeline answers."""
    model = refined_model(pipeline.model)
    start = guided(pipeline, z, values)
    found: list[Step] = []
    for logits in chain([start.start], model.steps(start, values["iterations"])):
        answer = pipeline.finish(logits, values)
        labels = back(answer.labels)
        changed = int(np.count_nonzero(labels != found[-1].labels)) if found else 0
        found.append(Step(len(found), labels, back(answer.probability), changed))
    return tuple(found)
