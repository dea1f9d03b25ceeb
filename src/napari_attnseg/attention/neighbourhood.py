"""Which positions a query looks at: neighbourhoods over a grid of two or three axes.

Legend: B batch, M heads, d key channels, e value channels, ``grid`` (H, W) or (D, H, W), N its
positions in row-major order, G groups of n positions. Maps are laid out (B, M, channels, *grid).

A neighbourhood knows two things about softmax attention ``y_i = sum_j softmax_j(s_ij) v_j``, j in
Omega(i): how to compute all answers at once without the N x N matrix (``mix``), and which
positions one query sees (``keys``), from which a single row is made. A ``Partition`` deals all
positions into groups inside which everybody sees everybody; its groups are an index table, so
that one gather serves windows, lattices and lines in any number of dimensions, and where a group
reaches over the border its holes are masked (they are not zeros that take part in the softmax).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.attention.fused import attend

Size = tuple[int, ...]
Extra = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q (B, M, d), k (B, M, n, d), steps (n, axes) from query to keys) to scores (.., n) to add."""


class Neighbourhood(ABC):
    """Omega: the positions that each query sees."""

    @abstractmethod
    def keys(self, at: Size, grid: Size) -> Tensor:
        """Flat indices (n,) of what position ``at`` sees, itself included."""

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """All answers: (B, M, e, *grid of q)."""

    def row(
        self, q: Tensor, k: Tensor, at: Size, scale: float, extra: Extra | None = None
    ) -> Tensor:
        """Attention of position ``at`` of q's grid: (B, M, *grid of k), sums to 1, 0 outside
        Omega. ``extra`` adds to the scores what depends on where the keys lie."""
        grid = tuple(k.shape[3:])
        keys = self.keys(at, grid).to(k.device)
        one = q[(..., *at)]
        seen = k.flatten(3)[..., keys]
        scores = torch.einsum("bmd,bmdn->bmn", one, seen) * scale
        if extra is not None:
            scores = scores + extra(one, seen.mT, steps_between(at, keys, grid))
        out = scores.new_zeros(*k.shape[:2], prod(grid))
        out[..., keys] = torch.softmax(scores, -1)
        return out.unflatten(2, grid)

    def received(self, q: Tensor, k: Tensor, scale: float, **terms: Tensor | None) -> Tensor:
        """Mean over queries and heads of the attention that each key gets: (B, *grid of k); sums
        to 1. ``y = A v``, so it is the gradient of the mean answer by v; ``mix`` streams it too.
        """
        with torch.inference_mode(False), torch.enable_grad():
            q, k = q.detach().clone(), k.detach().clone()
            kept = {n: None if t is None else t.detach().clone() for n, t in terms.items()}
            v = k.new_zeros(*k.shape[:2], 1, *k.shape[3:]).requires_grad_()
            total = self.mix(q, k, v, scale, **kept).sum()
            (got,) = torch.autograd.grad(total, v)
        return got.mean(1)[:, 0] / prod(q.shape[3:])

    def materialise(self, q: Tensor, k: Tensor, scale: float, extra: Extra | None = None) -> Tensor:
        """All rows, for tiny grids: (B, M, N, positions of k)."""
        rows = [self.row(q, k, at, scale, extra).flatten(2) for at in places(tuple(q.shape[3:]))]
        return torch.stack(rows, 2)


def places(grid: Size) -> Iterator[Size]:
    """All positions of a grid in row-major order."""
    return product(*(range(n) for n in grid))


def coordinates(flat: Tensor, grid: Size) -> Tensor:
    """Positions (.., axes) of flat row-major indices."""
    out = []
    for n in reversed(grid):
        out.append(flat % n)
        flat = flat // n
    return torch.stack(out[::-1], -1)


def steps_between(at: Size, keys: Tensor, grid: Size) -> Tensor:
    """Steps (n, axes) from position ``at`` to ``keys``."""
    return coordinates(keys, grid) - torch.tensor(at, device=keys.device)


@dataclass(frozen=True)
class Everywhere(Neighbourhood):
    """Every position sees every key; keys may lie on another grid than the queries."""

    def keys(self, at: Size, grid: Size) -> Tensor:
        return torch.arange(prod(grid))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        tokens = attend(q.flatten(3).mT, k.flatten(3).mT, v.flatten(3).mT, scale)
        return tokens.mT.unflatten(3, q.shape[3:])


# --- partitions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """``groups`` (G * n,): the position of every slot (holes: 0); ``slots`` (N,): the slot of
    every position; ``real`` (G, n): slots that are no holes, ``None`` where all are; ``count`` G.
    """

    groups: Tensor
    slots: Tensor
    real: Tensor | None
    count: int


class Partition(Neighbourhood):
    """Positions dealt into groups; each sees its own group."""

    @abstractmethod
    def groups(self, grid: Size) -> Tensor:
        """(G, n) flat indices, -1 for holes; every position stands exactly once."""

    def keys(self, at: Size, grid: Size) -> Tensor:
        table = self.groups(grid)
        flat = int(sum(a * prod(grid[i + 1 :]) for i, a in enumerate(at)))
        group = table[(table == flat).any(1)][0]
        return group[group >= 0]

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
    ) -> Tensor:
        """``bias`` (M, n, n) is added to the scores of every group."""
        grid = tuple(q.shape[3:])
        mask = _mask_of(self.mask(grid, q.device), bias, q.shape[0])
        return self.join(attend(self.split(q), self.split(k), self.split(v), scale, mask), grid)

    def split(self, x: Tensor) -> Tensor:
        """(B, M, d, *grid) to (B * G, M, n, d), contiguous."""
        batch, heads, channels = x.shape[:3]
        layout = self.layout(tuple(x.shape[3:]), x.device)
        tokens = x.flatten(3).flatten(1, 2).mT.contiguous()  # whole rows are gathered fastest
        dealt = tokens.index_select(1, layout.groups)
        dealt = dealt.view(batch * layout.count, -1, heads, channels)
        return dealt.transpose(1, 2).contiguous()

    def join(self, y: Tensor, grid: Size) -> Tensor:
        """(B * G, M, n, e) back to (B, M, e, *grid)."""
        layout = self.layout(grid, y.device)
        heads, _, channels = y.shape[1:]
        tokens = y.transpose(1, 2).reshape(y.shape[0] // layout.count, -1, heads * channels)
        back = tokens.index_select(1, layout.slots).mT
        return back.unflatten(1, (heads, channels)).unflatten(3, grid)

    def mask(self, grid: Size, device: torch.device) -> Tensor | None:
        """(G, n): keys that may be seen, ``None`` where all may. A group of holes alone keeps
        its keys, whose answers nobody reads, because a softmax over nothing is no number."""
        real = self.layout(grid, device).real
        return None if real is None else real | ~real.any(1, keepdim=True)

    def layout(self, grid: Size, device: torch.device) -> Layout:
        """The index tables of ``grid`` (kept for the sizes used last)."""
        return _layout(self, grid, str(device))


@lru_cache(maxsize=64)
def _layout(part: Partition, grid: Size, device: str) -> Layout:
    with torch.inference_mode(False):  # tables made under it could not serve a backward pass
        table = part.groups(grid)
        real = table >= 0
        slots = torch.empty(prod(grid), dtype=torch.long, device="cpu")
        flat = table.flatten()
        kept = flat >= 0
        slots[flat[kept]] = torch.arange(flat.numel(), device="cpu")[kept]
        return Layout(
            flat.clamp(min=0).to(device),
            slots.to(device),
            None if bool(real.all()) else real.to(device),
            table.shape[0],
        )


def _mask_of(real_Gn: Tensor | None, bias_Mnn: Tensor | None, batch: int) -> Tensor | None:
    """What ``attend`` adds to the scores, (1 or B * G, 1 or M, n, n)."""
    if real_Gn is None:
        return None if bias_Mnn is None else bias_Mnn.unsqueeze(0)
    keys = real_Gn.repeat(batch, 1)[:, None, None, :]
    if bias_Mnn is None:
        return keys.expand(-1, -1, keys.shape[-1], -1)
    return bias_Mnn.unsqueeze(0).masked_fill(~keys, float("-inf"))


def _positions(grid: Size) -> Tensor:
    return torch.arange(prod(grid), device="cpu").view(grid)


@dataclass(frozen=True)
class Line(Partition):
    """Each position sees the line through it along ``axis`` (0 = the first of the grid)."""

    axis: int

    def groups(self, grid: Size) -> Tensor:
        return _positions(grid).movedim(self.axis, -1).reshape(-1, grid[self.axis])


@dataclass(frozen=True)
class Blocks(Partition):
    """Blocks of ``size`` positions along every axis, the first ones ending after ``shift``.

    A window that is shifted in an image rolled by ``shift`` and masked where it wraps around
    (Swin) is the same as this: no position ever meets one from the other side.
    """

    size: Size
    shift: Size = ()

    def groups(self, grid: Size) -> Tensor:
        table = _positions(grid)
        pads: list[int] = []
        shift = self.shift or (0,) * len(grid)
        for n, size, cut in reversed(list(zip(grid, self.size, shift, strict=True))):
            before = -cut % size
            pads += [before, -(before + n) % size]
        table = F.pad(table, pads, value=-1)
        for axis, size in enumerate(self.size):
            table = table.unfold(axis, size, size)
        return table.flatten(len(grid)).flatten(0, len(grid) - 1)

    def steps(self) -> Tensor:
        """Steps (n, n, axes) from each slot of a block to each other."""
        places = coordinates(torch.arange(prod(self.size), device="cpu"), self.size)
        return places[None] - places[:, None]


@dataclass(frozen=True)
class Lattice(Partition):
    """Positions at the same place of every block of ``size``: as many apart as a block is wide."""

    size: Size

    def groups(self, grid: Size) -> Tensor:
        return Blocks(self.size).groups(grid).T.contiguous()


# --- neighbourhoods that move along with the query ------------------------------------------------


@dataclass(frozen=True)
class Square(Neighbourhood):
    """The ``kernel`` (odd) positions along every axis around each; none outside the image."""

    kernel: int

    def keys(self, at: Size, grid: Size) -> Tensor:
        r = self.kernel // 2
        table = _positions(grid)
        window = tuple(slice(max(0, a - r), a + r + 1) for a in at)
        return table[window].flatten()

    def offsets(self, axes: int) -> list[Size]:
        """Steps to the neighbours, row-major."""
        r = self.kernel // 2
        return list(product(range(-r, r + 1), repeat=axes))

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, relative: Tensor | None = None
    ) -> Tensor:
        """One neighbour after the other: no copy of the K neighbours of all positions is made.
        ``relative`` (K, d) adds ``q_i . relative_o`` to the scores."""
        grid = tuple(q.shape[3:])
        offsets, r = self.offsets(len(grid)), self.kernel // 2
        margin = (r, r) * len(grid)
        k, v = F.pad(k, margin), F.pad(v, margin)
        scores = torch.stack([(q * _at(k, o, r, grid)).sum(2) for o in offsets], 2) * scale
        if relative is not None:
            scores = scores + torch.einsum("bmd...,kd->bmk...", q, relative)
        inside = F.pad(torch.ones((1, 1, 1, *grid), device=q.device, dtype=torch.bool), margin)
        seen = torch.cat([_at(inside, o, r, grid) for o in offsets], 2)
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), 2)
        out = v.new_zeros(*v.shape[:3], *grid)
        for i, o in enumerate(offsets):
            out = torch.addcmul(out, weights[:, :, i : i + 1], _at(v, o, r, grid))
        return out


def _at(padded: Tensor, offset: Size, r: int, grid: Size) -> Tensor:
    """What lies ``offset`` away from every position of the grid."""
    window = tuple(slice(r + o, r + o + n) for o, n in zip(offset, grid, strict=True))
    return padded[(..., *window)]


@dataclass(frozen=True)
class Cross(Neighbourhood):
    """The lines through each position along all axes, the position itself once."""

    def keys(self, at: Size, grid: Size) -> Tensor:
        table = _positions(grid)
        last = len(grid) - 1
        lines = []
        for axis in range(len(grid)):
            line = table[tuple(slice(None) if i == axis else a for i, a in enumerate(at))]
            rest = torch.arange(line.numel(), device="cpu") != at[axis]
            lines.append(line if axis == last else line[rest])
        return torch.cat(lines)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        weights = torch.softmax(self.scores(q, k) * scale, -1)
        out = None
        for axis, part in enumerate(weights.split(tuple(q.shape[3:]), -1)):
            lines = part.movedim(2 + axis, -2) @ _lines(v, axis)
            answer = lines.movedim(-1, 2).movedim(-1, 3 + axis)
            out = answer if out is None else out + answer
        assert out is not None
        return out

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, M, *grid, H + W): along the first axis, the second ...; the position itself is
        -inf on all lines but the last."""
        grid = tuple(q.shape[3:])
        parts = []
        for axis, n in enumerate(grid):
            part = (_lines(q, axis) @ _lines(k, axis).mT).movedim(-2, 2 + axis)
            if axis < len(grid) - 1:
                own = torch.eye(n, dtype=torch.bool, device=q.device)
                shape = [n if i == axis else 1 for i in range(len(grid))]
                part = part.masked_fill(own.view(*shape, n), float("-inf"))
            parts.append(part)
        return torch.cat(parts, -1)


def _lines(x: Tensor, axis: int) -> Tensor:
    """(B, M, d, *grid) to (B, M, other axes, length, d)."""
    return x.movedim(3 + axis, -1).movedim(2, -1).contiguous()
