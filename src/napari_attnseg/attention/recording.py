"""Looking into attention modules while a model runs.

``with recording(model) as tape: model(x)`` collects what every attention module has to show.
Without it a module pays one ``is None`` test; outputs are bit-identical with and without it.
A module calls ``self.probe.note(...)`` in its forward where ``self.probe`` is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor, nn

MapKind = Literal[
    "spatial",
    "signed",
    "channel",
    "axes",
    "row",
    "cross",
    "branch",
    "region",
    "kernel",
    "matrix",
    "propagation",
]
"""What a record's numbers are (N = the map's own grid, two or three axes):

- spatial: (B, N) or (B, C, N), not negative. signed: the same around 0
- channel: (B, C) weights of channels
- axes: (B, C, n), a profile along one axis (``Record.axis``)
- row: (B, N) or (B, heads, N), what the queried position attends to (may be signed)
- cross: the same, along the queried position's row and column alone
- branch: (B, K, N), (B, K, C) or (B, K), weights of K alternatives, which sum to 1
- region: (B, K, N), how much each position belongs to each of K regions
- kernel: (B, n) weights of the parts of a convolution kernel
- matrix: (B, m, n), not over positions
- propagation: (B, K, N), weights of K neighbours, or the map after a step; one record a step
"""
KINDS: tuple[str, ...] = get_args(MapKind)
PICTURES: tuple[str, ...] = ("spatial", "signed", "row", "cross", "branch", "region", "propagation")
"""Kinds that lie over the image."""

Query = tuple[float, ...]


@dataclass(frozen=True)
class Geometry:
    """How a map lies over its module's input: position p of the map is centred at
    ``offset + p * stride``, in positions of the module's input, along each spatial axis.

    ``stride`` and ``offset`` empty: one map position per input position. ``window`` and
    ``shift``: size of the windows inside which attention stays and where the first one begins
    (Swin), empty elsewhere.
    """

    ndim: int = 2
    stride: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    window: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()

    @classmethod
    def over(cls, size: Sequence[int], grid: Sequence[int]) -> Geometry:
        """A map of ``grid`` whose cells fill a module input of ``size`` evenly."""
        stride = tuple(n / m for n, m in zip(size, grid, strict=True))
        return cls(len(stride), stride, tuple((s - 1) / 2 for s in stride))


@dataclass(frozen=True, eq=False)
class Record:
    """One map: ``place`` is the module's name inside the model, ``name`` the map's own.

    ``query``: the number of the asked position that a row belongs to. ``axis``: the spatial axis
    (0 = first) of an ``axes`` record. ``step``: the iteration of a ``propagation`` record.
    ``labels``: words for the entries of the second axis, where they have names.
    """

    place: str
    name: str
    kind: MapKind
    values: Tensor
    geometry: Geometry = Geometry()
    query: int = 0
    axis: int = 0
    step: int = 0
    labels: tuple[str, ...] = ()

    @property
    def flat(self) -> Tensor:
        """One map per item, (B, N): the mean over channels or heads where there are several."""
        extra = tuple(range(1, self.values.ndim - self.geometry.ndim))
        return self.values.mean(extra) if extra else self.values


@dataclass
class Tape:
    """What was seen. ``queries``: the asked positions, each as fractions (row, column), in a volume
    (slice, row, column), in [0, 1) of the model's padded input; none when nobody asked for rows.
    ``ndim``: spatial axes of that input."""

    queries: tuple[Query, ...] = ()
    records: list[Record] = field(default_factory=list)
    ndim: int = 2

    @property
    def query(self) -> Query | None:
        """The first asked position."""
        return self.queries[0] if self.queries else None

    def cells(self, grid: Sequence[int]) -> list[tuple[int, ...]]:
        """The asked positions on a map of ``grid`` (h, w) or (d, h, w)."""
        return [
            tuple(min(int(f * n), n - 1) for f, n in zip(query, grid, strict=True))
            for query in self.queries
        ]

    def cell(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The first asked position on a map of ``grid``; only when somebody asked."""
        return self.cells(grid)[0]


@dataclass(frozen=True)
class Probe:
    """A tape seen from one module."""

    place: str
    tape: Tape

    @property
    def query(self) -> Query | None:
        """See :class:`Tape`."""
        return self.tape.query

    @property
    def queries(self) -> tuple[Query, ...]:
        """See :class:`Tape`."""
        return self.tape.queries

    def cell(self, grid: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Tape.cell`."""
        return self.tape.cell(grid)

    def cells(self, grid: Sequence[int]) -> list[tuple[int, ...]]:
        """See :meth:`Tape.cells`."""
        return self.tape.cells(grid)

    def note(
        self,
        name: str,
        values: Tensor,
        kind: MapKind = "spatial",
        geometry: Geometry | None = None,
        *,
        query: int = 0,
        axis: int = 0,
        step: int = 0,
        labels: tuple[str, ...] = (),
    ) -> None:
        """Keep a copy (a later in-place activation must not change what was seen)."""
        kept = values.detach().clone()
        where = geometry or Geometry(self.tape.ndim)
        self.tape.records.append(
            Record(self.place, name, kind, kept, where, query, axis, step, labels)
        )


@contextmanager
def recording(
    model: nn.Module, query: Query | None = None, queries: Sequence[Query] = ()
) -> Iterator[Tape]:
    """Collect the maps of all attention modules of ``model`` while the block runs.

    ``query``: one position to ask for; ``queries``: several (of modules that know but one, the
    first counts).
    """
    from napari_attnseg.attention.module import AttentionModule

    asked = (query, *queries) if query is not None else tuple(queries)
    ndim = getattr(model, "ndim", 2)
    tape = Tape(asked, ndim=len(asked[0]) if asked else ndim if isinstance(ndim, int) else 2)
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, AttentionModule)]
    try:
        for name, module in modules:
            module.probe = Probe(name, tape)
        yield tape
    finally:
        for _, module in modules:
            module.probe = None
