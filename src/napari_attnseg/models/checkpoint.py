"""Checkpoints: safetensors with the model card in their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from napari_attnseg.atomic import whole
from napari_attnseg.cards import CARD_KEY, FORMAT, Card, read_card, resolve_checkpoint
from napari_attnseg.errors import AttnSegError, CheckpointError
from napari_attnseg.models.base import ModelSpec, SegmentationModel, build
from napari_attnseg.models.weights import read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode, its card, and the file they came from."""

    model: SegmentationModel
    card: Card
    path: Path


def save_checkpoint(path: str | Path, model: SegmentationModel, card: Card) -> Card:
    """Write ``model`` and ``card`` to ``path`` whole or not at all; returns the card as written.

    The card's ``format``, ``spec``, ``tunables``, ``parameters`` and ``digest`` are filled in
    from the model, and so is a ``tuning`` without values. Raises ``CheckpointError`` when the
    file cannot be written.
    """
    path = Path(path)
    tuning = card.tuning if card.tuning.items else replace(model.tuning(), cut=card.tuning.cut)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    card = replace(
        card,
        format=FORMAT,
        spec=model.spec.to_json(),
        tuning=tuning,
        tunables=tuple(
            {**asdict(t), "default": tuning.get(t.name, t.default)} for t in model.tunables
        ),
        parameters=sum(p.numel() for p in model.parameters()),
        digest=digest(state),
    )
    # one entry alone: safetensors writes several in random order, and equal models in unequal bytes
    metadata = {CARD_KEY: json.dumps(card.to_json(), allow_nan=False)}
    _write_whole(path, state, metadata)
    return card


def _write_whole(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            save_file(state, draft, metadata)  # a third of the time of making the bytes first
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"cannot write {path} ({why}); choose another place or free space"
        ) from error


def load_checkpoint(path_or_name: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The model of a file or of a shipped name, ready to predict on ``device``.

    Raises ``CheckpointError`` with one sentence when the file is missing, foreign, damaged, of a
    newer version, or when its tensors do not fit the architecture its card names.
    """
    path = resolve_checkpoint(path_or_name)
    card = read_card(path)
    try:
        model = build(ModelSpec.from_json(card.spec))
    except (AttnSegError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} names a model this installation cannot build: {error}"
        ) from error
    state = read_tensors(path)
    _check_tensors(path, state, model.state_dict())
    if card.digest and digest(state) != card.digest:
        raise CheckpointError(
            f"{path.name} is damaged: its numbers are not those that were saved; copy it again"
        )
    model.load_state_dict(state)
    model.adopt(card.tuning)
    return Checkpoint(model.eval().to(device), card, path)


def _check_tensors(path: Path, got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise with the first tensor that is missing, unknown or of another shape."""
    wrong = sorted(set(got) ^ set(expected))
    if wrong:
        side = "lacks" if wrong[0] in expected else "has an unknown"
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{path.name} {side} tensor {wrong[0]}{more}; its card does not describe its network"
        )
    for name, tensor in expected.items():
        if got[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path.name}: tensor {name} is {tuple(got[name].shape)}, but its card describes "
                f"{tuple(tensor.shape)}; the file does not fit its own card"
            )


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and numbers of all tensors, in order of name."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
