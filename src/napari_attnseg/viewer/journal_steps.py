"""Steps that can be taken back: strokes, answers, threshold moves, post-processing, in one line.

A step keeps packed tiles as they were on the *other* side of it. Taking it back swaps them with
those that are there, and so does bringing it back, so that both are exact. Steps whose tiles
outgrow a limit lie in a file without a name, which goes when the step goes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from napari_attnseg.io.journal import Page

STEPS_KEPT = 200
"""Steps that can be taken back."""
MEMORY_BYTES = 48 << 20
"""Packed tiles kept in memory, over all steps of one layer; larger and older ones go to disk."""
DISK_BYTES = 2 << 30
"""Packed tiles kept on disk, over all steps of one layer; then the oldest steps are forgotten."""
_OVERHEAD = 120
"""Bytes that one kept tile takes besides its own."""


@dataclass(eq=False)
class Step:
    """One step: what kind it is, in words for a person, and the other side of its tiles.

    ``kind``: ``"paint"``, ``"fill"``, ``"erase"``, ``"polygon"``, ``"code"``, ``"reset"``,
    ``"process"``, ``"run"`` or ``"tuning"``. ``before`` and ``after`` are the live values on both
    sides of an answer. A ``sealed`` answer gets no other values; ``heard``: something of it came.
    ``about``: how the labels on the other side of an answer came about.
    """

    kind: str
    name: str = ""
    before: Any = None
    after: Any = None
    sealed: bool = False
    heard: bool = False
    about: Any = None
    pages: dict[Page, bytes] = field(default_factory=dict)
    in_memory: int = 0
    _file: IO[bytes] | None = None
    _places: dict[Page, tuple[int, int]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return not self.pages and not self._places

    @property
    def slices(self) -> int:
        """How many slices it touched."""
        return len({key[0] for _, key in [*self.pages, *self._places]})

    @property
    def on_disk(self) -> int:
        """Bytes in the file."""
        return sum(length for _, length in self._places.values())

    @property
    def tiles(self) -> int:
        """How many tiles it changed."""
        return len(self.pages) + len(self._places)

    def knows(self, page: Page) -> bool:
        """Whether the other side of a tile is kept."""
        return page in self.pages or page in self._places

    def keep(self, page: Page, data: bytes) -> None:
        """The tile as it was before this step; only the first call for a tile counts."""
        if not self.knows(page):
            self.pages[page] = data
            self.in_memory += len(data) + _OVERHEAD

    def take_pages(self) -> dict[Page, bytes]:
        """All tiles, those on disk included, and forget them."""
        pages, self.pages, self.in_memory = self.pages, {}, 0
        if self._file is not None:
            for page, (place, length) in self._places.items():
                self._file.seek(place)
                pages[page] = self._file.read(length)
        self.drop()
        return pages

    def spill(self, folder: Path | None) -> bool:
        """Move the tiles to a file; false when the disk refuses (they stay in memory)."""
        try:
            file = self._file or tempfile.TemporaryFile(dir=folder, prefix="attnseg-undo-")  # noqa: SIM115
            place = file.seek(0, 2)
            places = {}
            for page, data in self.pages.items():
                file.write(data)
                places[page] = (place, len(data))
                place += len(data)
            file.flush()
        except OSError:
            return False
        self._file = file
        self._places |= places
        self.pages, self.in_memory = {}, 0
        return True

    def drop(self) -> None:
        """Forget the tiles on disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file, self._places = None, {}


class Timeline:
    """The steps of one layer, oldest first, and those that were taken back.

    ``folder``: where steps go that are too large for memory (``None``: the system's own).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.undo: deque[Step] = deque()
        self.redo: deque[Step] = deque()

    def push(self, step: Step) -> None:
        """A new last step; what had been taken back can no longer be brought again."""
        for old in self.redo:
            old.drop()
        self.redo.clear()
        self.undo.append(step)
        self.bound()

    def bound(self) -> None:
        """Keep to the limits: the largest steps go to disk, the oldest are forgotten."""
        while len(self.undo) > STEPS_KEPT:
            self.undo.popleft().drop()
        steps = [*self.undo, *self.redo]
        total = sum(step.in_memory for step in steps)
        for step in sorted(steps, key=lambda s: -s.in_memory):
            if total <= MEMORY_BYTES:
                break
            size = step.in_memory
            if not step.spill(self.folder):
                break
            total -= size
        while self._over() and len(self.undo) > 1:
            self.undo.popleft().drop()

    def _over(self) -> bool:
        steps = [*self.undo, *self.redo]
        return (
            sum(step.on_disk for step in steps) > DISK_BYTES
            or sum(step.in_memory for step in steps) > 2 * MEMORY_BYTES  # the disk refuses
        )
