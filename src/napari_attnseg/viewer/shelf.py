"""The checkpoints that one can choose from: shipped ones and files that were used before."""

from __future__ import annotations

import contextlib
from pathlib import Path

from napari_attnseg.cards import Card, read_card, resolve_checkpoint, shipped_checkpoints
from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.preferences import recall, remember

REMEMBERED = 20
"""Files kept in the list from one session to the next."""


class Shelf:
    """Names of checkpoints: shipped names, then paths (newest last)."""

    def __init__(self) -> None:
        files = [str(p) for p in recall("model_files", []) if _is_file(str(p))]
        self._names = [*shipped_checkpoints(), *files]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def names(self) -> list[str]:
        """Those that are there now."""
        return [name for name in self._names if name in shipped_checkpoints() or _is_file(name)]

    def add(self, name: str) -> None:
        """Offer one more; files are remembered."""
        self._names.append(name)
        if name not in shipped_checkpoints():
            remember("model_files", [n for n in self._names if _is_file(n)][-REMEMBERED:])

    def suited(self, volume: bool) -> str:
        """The first that suits a volume or a flat image (CT windows are for volumes), one with a
        threshold before others, unrefined before refined; else the first that can be read, else
        ``""``."""
        cards = {name: _card_of(name) for name in self.names}
        fits = [
            n for n, c in cards.items() if c and (c.preprocessing.intensity == "window") == volume
        ]
        # what answers live to one slider, and soonest
        fits.sort(key=lambda n: (not _tuned_by(cards[n], "threshold"), _refined(cards[n])))
        return next(iter([*fits, *(n for n, c in cards.items() if c)]), "")


def _card_of(name: str) -> Card | None:
    with contextlib.suppress(AttnSegError):
        return read_card(resolve_checkpoint(name))
    return None


def _tuned_by(card: Card | None, name: str) -> bool:
    return card is not None and name in card.tuning.values


def _refined(card: Card | None) -> bool:
    return _tuned_by(card, "iterations")


def _is_file(name: str) -> bool:
    return Path(name).is_file()
