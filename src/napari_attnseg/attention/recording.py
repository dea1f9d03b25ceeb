"""Looking into attention modules while a model runs.

``with recording(model) as tape: model(x)`` collects what every attention module has to show.
Without it a module pays one ``is None`` test; outputs are bit-identical with and without it.
A module calls ``self.probe.note(...)`` in its forward where ``self.probe`` is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

MapKind = Literal["spatial", "signed", "channel", "branch", "row", "axis"]
"""spatial: (B, h, w), not negative. signed: (B, h, w) around 0. channel: (B, C) weights.
branch: (B, K, h, w) or (B, K) weights of alternatives. row: (B, h, w), what the queried position
attends to (may be signed). axis: (B, n) along one axis."""


@dataclass(frozen=True, eq=False)
class Record:
    """One map: ``place`` is the module's name inside the model, ``name`` the map's own."""

    place: str
    name: str
    kind: MapKind
    values: Tensor


@dataclass
class Tape:
    """What was seen. ``query``: the asked position as fractions (row, column) in [0, 1) of the
    model's padded input, or ``None`` when nobody asked for rows."""

    query: tuple[float, float] | None = None
    records: list[Record] = field(default_factory=list)

    def cell(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The queried position on a map of ``grid`` (h, w); only when ``query`` is set."""
        assert self.query is not None
        (i, j) = (min(int(f * n), n - 1) for f, n in zip(self.query, grid, strict=True))
        return i, j


@dataclass(frozen=True)
class Probe:
    """A tape seen from one module."""

    place: str
    tape: Tape

    @property
    def query(self) -> tuple[float, float] | None:
        """See :class:`Tape`."""
        return self.tape.query

    def cell(self, grid: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`Tape.cell`."""
        return self.tape.cell(grid)

    def note(self, name: str, values: Tensor, kind: MapKind = "spatial") -> None:
        """Keep a copy (a later in-place activation must not change what was seen)."""
        self.tape.records.append(Record(self.place, name, kind, values.detach().clone()))


@contextmanager
def recording(model: nn.Module, query: tuple[float, float] | None = None) -> Iterator[Tape]:
    """Collect the maps of all attention modules of ``model`` while the block runs."""
    from napari_attnseg.attention.base import AttentionModule

    tape = Tape(query)
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, AttentionModule)]
    try:
        for name, module in modules:
            module.probe = Probe(name, tape)
        yield tape
    finally:
        for _, module in modules:
            module.probe = None
