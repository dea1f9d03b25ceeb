"""Checkpoints with a refinement in them, as their cards describe them."""

from __future__ import annotations

from typing import Any

from napari_attnseg.cards import Card, read_card, resolve_checkpoint
from napari_attnseg.errors import AttnSegError
from napari_attnseg.settings import Tunable

REFINED = "refined"
"""Name of the architecture."""


def is_refined(card: Card | None) -> bool:
    """Whether a checkpoint has a refinement in it."""
    return card is not None and card.spec.get("name") == REFINED


def kind_of(card: Card | None) -> str:
    """``"cspn"``, ``"dyspn"``, or ``""``."""
    options: dict[str, Any] = dict(card.spec.get("options") or {}) if card is not None else {}
    return str(options.get("refine", ""))


def iterations_of(card: Card | None) -> Tunable | None:
    """How many iterations may be asked for, and how many it was trained with."""
    declared = (t for t in (card.tunables if card else ()) if t.get("name") == "iterations")
    found = next(declared, None)
    if found is None:
        return None
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Tunable(**plain)


def card_of(name: str) -> Card | None:
    """The card of a checkpoint; ``None`` for no name or a file that cannot be read."""
    try:
        return read_card(resolve_checkpoint(name)) if name else None
    except AttnSegError:
        return None
