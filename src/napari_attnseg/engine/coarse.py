"""The coarse model that a refined one stands on: what it hands down, and its weights.

A refined model is trained for one coarse checkpoint and takes from its card everything that
decides what the coarse model sees and says: preprocessing, classes and their colours, threshold.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_attnseg.cards import read_card, resolve_checkpoint
from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.settings import TrainSettings, with_model

if TYPE_CHECKING:
    from napari_attnseg.models.base import SegmentationModel

REFINED = "refined"


def refining(
    settings: TrainSettings, coarse: str | Path, refine: str = "cspn", fine_tune: bool = False
) -> TrainSettings:
    """The settings for training a refiner of the checkpoint ``coarse`` (file or shipped name).

    ``fine_tune``: the coarse model learns on as well. Loss, steps, crops and the guidance's
    options stay as they are in ``settings``. The threshold is held where the coarse checkpoint
    has it. Raises ``CheckpointError`` for what is no checkpoint and ``InputError`` for one that
    is refined already.
    """
    card = read_card(resolve_checkpoint(coarse))
    if card.spec.get("name") == REFINED:
        raise InputError(
            f"got {coarse} as coarse model, which is refined already; choose the model it stands on"
        )
    if dict(card.spec.get("options", {})).get("ndim") == 3:
        raise InputError(
            f"got the 3D model {coarse} as coarse model, expected one of slices: a refinement is "
            "trained on slices; train it on a model of slices with the same classes, then refine "
            "the 3D model's masks with predict --refine"
        )
    spec = {"name": card.spec["name"], "options": dict(card.spec.get("options", {}))}
    own = {"coarse": json.dumps(spec, sort_keys=True), "refine": refine, "frozen": not fine_tune}
    settings = with_model(settings, REFINED, **own)
    return replace(
        settings,
        coarse=str(coarse),
        preprocessing=card.preprocessing,
        class_names=card.class_names,
        class_colors=card.class_colors,
        rule=str(card.tuning.get("rule", settings.rule)),
        threshold=float(card.tuning.get("threshold", settings.threshold)),
        threshold_draw="fixed",
        encoder_normalisation="given",
    )


def check_coarse(settings: TrainSettings) -> None:
    """Raise ``InputError`` when a model needs a coarse one and has none, or the reverse."""
    from napari_attnseg.models.base import model_info

    needs = model_info(settings.model).needs_coarse
    if needs and not settings.coarse:
        raise InputError(
            f"got model {settings.model} without a coarse model, expected a trained one to refine; "
            "give --coarse CHECKPOINT and --refine cspn or dyspn"
        )
    if settings.coarse and not needs:
        raise InputError(
            f"got a coarse model for {settings.model}, which refines none; leave --coarse out"
        )


def load_coarse(model: SegmentationModel, settings: TrainSettings) -> str:
    """Put the coarse checkpoint's weights into ``model.coarse``; returns what was done, in words.

    Raises ``CheckpointError`` when the checkpoint is not of the architecture in the options.
    """
    from napari_attnseg.models.checkpoint import load_checkpoint
    from napari_attnseg.models.refined import RefinedModel

    assert isinstance(model, RefinedModel)
    found = load_checkpoint(settings.coarse)
    if found.model.spec != model.coarse.spec:
        raise CheckpointError(
            f"{found.path.name} is another model than the one to refine "
            f"({found.model.spec.name} with {dict(found.model.spec.options)}, expected "
            f"{model.coarse.spec.name} with {dict(model.coarse.spec.options)}); choose the "
            "checkpoint with which the settings were made"
        )
    model.coarse.load_state_dict(found.model.state_dict())
    model.coarse.adopt(found.card.tuning)
    state = "frozen" if model.frozen else "learns on"
    return f"coarse model {found.path.name}: {found.card.title or found.model.spec.name}, {state}"


def coarse_provenance(settings: TrainSettings) -> dict[str, str]:
    """For the card: which checkpoint is refined, by name and digest; empty without one."""
    if not settings.coarse:
        return {}
    path = resolve_checkpoint(settings.coarse)
    return {"name": path.stem, "digest": read_card(path).digest}


def keep_coarse(settings: TrainSettings, out: Path) -> None:
    """Raise ``InputError`` when the refined model would be written over its coarse one."""
    if settings.coarse and resolve_checkpoint(settings.coarse).resolve() == out.resolve():
        raise InputError(
            f"got output {out.name}, which is the coarse model itself; choose another name"
        )
