"""The resume state: all that a stopped training needs to go on as if it had never stopped.

One safetensors file: the weights as ``model.<name>``, the optimiser's as
``optimizer.<parameter>.<entry>``, the position as JSON in the metadata. Random numbers need no
state: each is drawn from (seed, epoch, position). Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from napari_attnseg.atomic import whole
from napari_attnseg.engine.learner import Learner
from napari_attnseg.errors import CheckpointError, ExportError
from napari_attnseg.settings import TrainSettings

FORMAT = 1
MAY_CHANGE = frozenset({"epochs", "patience", "class_colors"})
"""Settings that may differ on resume (with a schedule, other epochs give other steps)."""


@dataclass
class Progress:
    """Where a training stands. ``epoch``: finished ones; ``step``: batches done in this one.
    ``regulariser_sum`` of these batches; ``None`` for models without a regulariser."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    regulariser_sum: float | None = None
    best: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def state_path(out: Path) -> Path:
    """Where the resume state of checkpoint ``out`` lies."""
    return out.with_name(f"{out.name}.state.safetensors")


def _names(learner: Learner) -> dict[int, str]:
    return {id(p): name for name, p in learner.model.named_parameters()}


def _tensors(learner: Learner) -> dict[str, torch.Tensor]:
    found = {f"model.{k}": v for k, v in learner.model.state_dict().items()}
    names = _names(learner)
    for parameter, entries in learner.optimizer.state.items():
        for key, value in entries.items():
            if value is None:  # SGD without momentum
                continue
            tensor = value if torch.is_tensor(value) else torch.tensor(value)
            found[f"optimizer.{names[id(parameter)]}.{key}"] = tensor
    return {name: t.detach().cpu().contiguous() for name, t in found.items()}


def save_state(path: Path, learner: Learner, progress: Progress) -> None:
    """Write the state whole or not at all.

    Raises:
        ExportError: it could not be written; an older state stays as it was.
    """
    head = {
        "format": FORMAT,
        "settings": learner.settings.to_json(),
        "progress": asdict(progress),
        "precision": learner.precision.state(),
    }
    try:
        with whole(path) as draft:
            save_file(_tensors(learner), draft, {"state": json.dumps(head)})
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"cannot write the resume state {path.name}: {error}; free some space and train again"
        ) from error


def load_state(path: Path, learner: Learner) -> Progress:
    """Put weights and optimiser back and return the position.

    Raises:
        CheckpointError: no such file, not a resume state, or made with other settings.
    """
    if not path.is_file():
        raise CheckpointError(
            f"got no resume state {path.name}, expected one beside the checkpoint; train anew"
        )
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"got {path.name}, which is damaged or no resume state; train anew"
        ) from error
    if head.get("format") != FORMAT:
        raise CheckpointError(
            f"got resume state format {head.get('format')}, expected {FORMAT}; train anew"
        )
    _check_settings(head["settings"], learner.settings)
    _restore(learner, tensors)
    learner.precision.load(head.get("precision", {}))
    return Progress(**head["progress"])


def _check_settings(saved: dict[str, Any], wanted: TrainSettings) -> None:
    now = json.loads(json.dumps(wanted.to_json()))
    before = _completed(saved)
    other = [k for k in now if k not in MAY_CHANGE and before.get(k) != now[k]]
    if other:
        was = ", ".join(f"{k} was {before.get(k)!r}" for k in other)
        raise CheckpointError(
            f"got settings other than those of the stopped training ({was}), expected the same; "
            "use these again or train anew"
        )


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    """Saved settings with the defaults of values that an older version did not know."""
    whole: dict[str, Any] = json.loads(json.dumps(TrainSettings.from_json(saved).to_json()))
    return whole


def _restore(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    learner.model.load_state_dict(weights)
    entries: dict[str, dict[str, torch.Tensor]] = {}
    for full, value in tensors.items():
        if full.startswith("optimizer."):
            name, key = full.removeprefix("optimizer.").rsplit(".", 1)
            entries.setdefault(name, {})[key] = value
    for name, parameter in learner.model.named_parameters():
        if name in entries:
            learner.optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in entries[name].items()
            }
