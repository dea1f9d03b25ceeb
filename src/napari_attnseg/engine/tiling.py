"""Slices cut into overlapping tiles: less memory, another answer, therefore only when asked for.

A global attention compares every position with every other. In a tile it sees the tile alone, so
its answer is not that of the whole image, however well the tiles are joined.

Tiles are cut from the slice as the network sees it (normalised as a whole, at working size), so
that neither contrast nor the size of things changes; their corners lie on the model's grid. Each
tile runs the whole chain; the logits are blended with Gaussian weights and cut once. The
weighting is made here rather than by a library's sliding window because every tile keeps its own
entry in the pipeline's caches: the heavy half of a tile is not repeated when a value moves.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from napari_attnseg.engine.pipeline import Pipeline
from napari_attnseg.engine.predict import Answer
from napari_attnseg.errors import InputError

Guard = Callable[[Callable[[], Any]], Any]
OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next, at least."""
SIGMA = 0.125
"""Width of the Gaussian weight as a share of the tile's side."""


@dataclass(frozen=True)
class Tile:
    """Part of slice ``z``: working pixels ``rows`` x ``cols``, each (first, after the last)."""

    z: int
    rows: tuple[int, int]
    cols: tuple[int, int]

    def of(self, pixels: torch.Tensor) -> torch.Tensor:
        """This part of (..., H, W), a view."""
        return pixels[..., slice(*self.rows), slice(*self.cols)]


def check_tile(tile: int | None, stride: int) -> int | None:
    """The side itself; raises ``InputError`` when a tile holds too few cells of the grid."""
    if tile is not None and tile < 2 * stride:
        raise InputError(
            f"got tiles of {tile} pixels, expected at least {2 * stride} for this model; "
            "give a larger tile, 512 for example"
        )
    return tile


def spans(length: int, tile: int, stride: int) -> list[tuple[int, int]]:
    """Overlapping parts of ``range(length)``, none longer than ``tile`` (>= ``2 * stride``).

    All begin at multiples of ``stride``, so that a tile has the grid of the whole image; the
    last ends where the image ends.
    """
    if length <= tile:
        return [(0, length)]
    step = max(stride, int(tile * (1 - OVERLAP)) // stride * stride)
    last = -(-(length - tile) // stride) * stride
    return [(start, min(start + tile, length)) for start in (*range(0, last, step), last)]


def axis_weights(parts: list[tuple[int, int]]) -> list[torch.Tensor]:
    """A weight per pixel of every part, float64; at every pixel those of all parts sum to 1.

    Gaussian about the middle of the part. Tiles are the product of rows and columns, so weights
    normalised along each axis give tile weights that sum to 1 as well.
    """
    raw = [_gaussian(stop - start) for start, stop in parts]
    total = torch.zeros(parts[-1][1], dtype=torch.float64)
    for (start, stop), weight in zip(parts, raw, strict=True):
        total[start:stop] += weight
    return [w / total[start:stop] for (start, stop), w in zip(parts, raw, strict=True)]


def _gaussian(n: int) -> torch.Tensor:
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return torch.exp(-0.5 * (at / (SIGMA * n)) ** 2)


@dataclass(frozen=True)
class Plan:
    """How slices of a working size are cut."""

    size: tuple[int, int]
    rows: list[tuple[int, int]]
    cols: list[tuple[int, int]]

    @classmethod
    def of(cls, size: tuple[int, int], tile: int | None, stride: int) -> Plan:
        """One part per axis where ``tile`` is ``None`` or not smaller than the slice."""
        rows, cols = (spans(n, tile or n, stride) for n in size)
        return cls(size, rows, cols)

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    def tiles(self, z: int) -> list[Tile]:
        """The tiles of slice ``z``, row by row."""
        return [Tile(z, rows, cols) for rows, cols in product(self.rows, self.cols)]

    def blend(self, parts: Iterable[tuple[Tile, torch.Tensor]]) -> torch.Tensor:
        """Logits (1, C, H, W) on the CPU from those of all tiles, weighted."""
        blend = Blend(self)
        for tile, logits in parts:
            blend.add(tile, logits)
        return blend.whole


class Blend:
    """The weighted sum of the logits of tiles, one at a time; ``whole`` after the last."""

    def __init__(self, plan: Plan) -> None:
        self._size = plan.size
        self._rows = dict(zip(plan.rows, axis_weights(plan.rows), strict=True))
        self._cols = dict(zip(plan.cols, axis_weights(plan.cols), strict=True))
        self._whole: torch.Tensor | None = None

    @property
    def whole(self) -> torch.Tensor:
        """Logits (1, C, H, W) on the CPU."""
        assert self._whole is not None
        return self._whole

    def add(self, tile: Tile, logits: torch.Tensor) -> None:
        """One more tile's logits (1, C, h, w); where memory ends, nothing has been added."""
        if self._whole is None:
            self._whole = torch.zeros(*logits.shape[:2], *self._size)
        weight = self._rows[tile.rows][:, None] * self._cols[tile.cols]
        tile.of(self._whole).add_(logits.cpu().float() * weight.float())


class Tiler:
    """Answers of whole slices from tiles; ``working(z)`` gives (1, C, H, W) on the CPU."""

    def __init__(self, plan: Plan, working: Callable[[int], torch.Tensor]) -> None:
        self.plan = plan
        self._working = working
        self._kept: tuple[int, torch.Tensor] | None = None

    def pixels(self, tile: Tile) -> torch.Tensor:
        """What the network sees of a tile; the slice is prepared once for all its tiles."""
        if self._kept is None or self._kept[0] != tile.z:
            self._kept = None
            self._kept = (tile.z, self._working(tile.z))
        return tile.of(self._kept[1]).contiguous()

    def steps(
        self, pipeline: Pipeline, z: int, values: Mapping[str, Any], guarded: Guard
    ) -> Generator[None, None, Answer]:
        """Slice ``z`` at these values, a tile per step; returns the answer.

        ``guarded`` runs the work of one step. ``pipeline.chain.woken`` at the end: the stages that
        any tile woke.
        """
        woken: set[str] = set()
        blend = Blend(self.plan)
        try:
            for i, tile in enumerate(self.plan.tiles(z)):
                if i:
                    yield
                guarded(lambda t=tile: blend.add(t, pipeline.logits(t, values)[0]))  # type: ignore[misc]
                woken.update(pipeline.chain.woken)
        finally:
            self._kept = None
        answer: Answer = guarded(lambda: pipeline.finish(blend.whole, values))
        order = (stage.name for stage in pipeline.chain.stages)
        pipeline.chain.woken = (*(name for name in order if name in woken), "blend", "fit", "cut")
        return answer


def tile_note(tile: int, attends: bool = True, maps: bool = True) -> str:
    """What the person should know about an answer from tiles.

    ``attends``: whether the model has attention; ``maps``: whether it has step and received maps
    where slices are not cut.
    """
    what = "a global attention" if attends else "the network"
    return (
        f"slices are cut into overlapping tiles of {tile} pixels, as asked for: {what} "
        "sees one tile at a time, so the answer differs from that of the whole image"
        + (", and there are no step and received maps" if maps else "")
    )


def helpful_tile(size: tuple[int, int], tile: int | None, stride: int) -> int:
    """A tile smaller than what ended memory at working ``size``; 0 when none would help."""
    longest = min(max(size), tile or max(size))
    smaller = max(2 * stride, 64, min(512, 1 << max(longest // 2, 1).bit_length() - 1))
    return 0 if smaller >= longest else smaller


def tile_advice(size: tuple[int, int], tile: int | None, stride: int) -> str:
    """What to do when memory ended at working ``size``, with tiles of ``tile`` or without."""
    smaller = helpful_tile(size, tile, stride)
    if not smaller:
        return "close other programs"
    return (
        f"close other programs, or use `--tile {smaller}` of `napari-attnseg predict` "
        "(which changes the answer of a global attention)"
    )
