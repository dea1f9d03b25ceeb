"""Softmax attention with its neighbour steps, streamed in blocks of image rows.

Legend: B batch, G items handled together, H, W grid, N = H*W positions in row-major order, d key
channels, C value channels, R image rows in one block. Tokens are laid out (B, N, channels).

The N x N matrix A = softmax(Q K^T * scale) never exists: a block of R image rows (R*W rows of A)
is made, used for all its purposes and overwritten; only the last image row of A (W x N) is kept
for the next block, because ``step`` compares vertical neighbours. Nothing is computed twice and
nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_attnseg.breath import breathe

Maps = tuple[Tensor, Tensor, Tensor]
CPU_BLOCK = 16 << 20
"""Bytes of one block of A on a CPU: large enough for the product with V to run at full speed,
small enough to stay in the last-level cache."""
GPU_BLOCK = 256 << 20
"""Bytes of one block of A elsewhere: few launches matter more than caches."""
CPU_SCRATCH = 4 << 20
"""Bytes of the differences between neighbouring rows that are looked at together on a CPU."""
DENSE_BYTES = 32 << 20
"""While training, maps whose whole A is smaller are differentiated in the textbook way: keeping
A is cheaper than computing it again."""


@dataclass(frozen=True)
class Grid:
    """Height and width of the map, the factor of the scores, and the budget of one block."""

    height: int
    width: int
    scale: float
    block_bytes: int | None = None

    @property
    def n(self) -> int:
        """Positions N."""
        return self.height * self.width

    def group(self, like: Tensor) -> tuple[int, int]:
        """(items G, image rows R) of one block: several whole maps, or some rows of one."""
        default = CPU_BLOCK if like.device.type == "cpu" else GPU_BLOCK
        budget = self.block_bytes or default
        whole = self.n * self.n * like.element_size()
        if whole <= budget:
            return min(like.shape[0], budget // max(1, whole)), self.height
        return 1, max(1, budget // (self.width * self.n * like.element_size()))

    def slab(self, rows_GRWN: Tensor) -> int:
        """Image rows whose neighbours are compared together."""
        if rows_GRWN.device.type != "cpu":
            return self.height
        group = rows_GRWN.shape[0] * self.width * self.n * rows_GRWN.element_size()
        return max(1, CPU_SCRATCH // group)


def attend(q_BNd: Tensor, k_BNd: Tensor, v_BNC: Tensor, grid: Grid) -> Maps:
    """``value`` (B, N, C), ``step`` (B, N) and ``received`` (B, N).

    ``value = A V`` is differentiable; ``v`` may lie in memory in any order, and ``value`` lies
    channel by channel, like a feature map. ``step[i] = max over the 8 neighbours j of i of
    max_k |A[j, k] - A[i, k]|`` (Smooth Attention, equations 5 and 6; neighbours outside the image
    do not count, which equals replicate padding) lies in [0, 1]. ``received[k] = mean_i A[i, k]``
    sums to 1. The last two carry no gradient.
    """
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in (q_BNd, k_BNd, v_BNC))):
        return _stream(q_BNd.detach(), k_BNd.detach(), v_BNC.detach(), grid)
    if q_BNd.shape[0] * grid.n * grid.n * q_BNd.element_size() <= DENSE_BYTES:
        return _dense(q_BNd, k_BNd, v_BNC, grid)
    maps: Maps = _RowBlocks.apply(q_BNd, k_BNd, v_BNC, grid)
    return maps


def attention_row(q_BNd: Tensor, k_BNd: Tensor, index: int, grid: Grid) -> Tensor:
    """Row ``index`` of A: (B, N), what that position attends to; sums to 1."""
    scores = torch.einsum("bd,bnd->bn", q_BNd[:, index] * grid.scale, k_BNd)
    return torch.softmax(scores, -1)


@torch.no_grad()
def weighted_received(q_BNd: Tensor, k_BNd: Tensor, weight_BN: Tensor, grid: Grid) -> Tensor:
    """``sum_i weight[i] A[i, k] / N``: (B, N), streamed; uniform weights 1 give ``received``."""
    out = torch.zeros_like(weight_BN)
    for items, rows, block in _blocks(q_BNd, k_BNd, grid):
        out[items] += torch.einsum("gr,grn->gn", weight_BN[items, rows], block.new)
    return out / grid.n


# --- forms of one calculation ---------------------------------------------------------------------


def _dense(q_BNd: Tensor, k_BNd: Tensor, v_BNC: Tensor, grid: Grid) -> Maps:
    """The textbook form, for small maps under autograd."""
    a_BNN = torch.softmax((q_BNd * grid.scale) @ k_BNd.mT, -1)
    with torch.no_grad():
        step = q_BNd.new_zeros(q_BNd.shape[0], grid.height, grid.width)
        a_BHWN = a_BNN.detach().unflatten(1, (grid.height, grid.width))
        _max_edges(a_BHWN, step, 0, 0, grid.slab(a_BHWN))
        received = a_BNN.detach().mean(1)
    return a_BNN @ v_BNC, step.flatten(1), received


@torch.no_grad()
def _stream(q_BNd: Tensor, k_BNd: Tensor, v_BNC: Tensor, grid: Grid) -> Maps:
    """Algorithm R (rolling rows): one pass over blocks of image rows."""
    value = v_BNC.new_empty(v_BNC.mT.shape).mT
    step = q_BNd.new_zeros(q_BNd.shape[0], grid.height, grid.width)
    received = q_BNd.new_zeros(q_BNd.shape[0], grid.n)
    for items, rows, block in _blocks(q_BNd, k_BNd, grid):
        torch.bmm(block.new, v_BNC[items], out=value[items, rows])
        received[items] += block.new.sum(1)
        _max_edges(block.rows, step[items], block.top, block.lead, grid.slab(block.rows))
    return value, step.flatten(1), received / grid.n


class _RowBlocks(torch.autograd.Function):
    """``attend`` that remembers only its inputs and ``value``; A is made again when needed."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Maps:
        value, step, received = _stream(q, k, v, grid)
        ctx.save_for_backward(q, k, v, value)
        ctx.grid = grid
        ctx.mark_non_differentiable(step, received)
        return value, step, received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """With P = A: dV = P^T g; dS = P * (g V^T - rowsum(g * value)); dQ, dK from dS."""
        q, k, v, value = ctx.saved_tensors
        delta = (g * value).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for items, rows, block in _blocks(q, k, ctx.grid):
            p, g_rows = block.new, g[items, rows]
            dv[items] += p.mT @ g_rows
            ds = g_rows @ v[items].mT
            ds.sub_(delta[items, rows]).mul_(p).mul_(ctx.grid.scale)
            torch.bmm(ds, k[items], out=dq[items, rows])
            dk[items] += ds.mT @ q[items, rows]
        return dq, dk, dv, None


# --- the rolling block ----------------------------------------------------------------------------


@dataclass
class _Block:
    """``new`` (G, R*W, N): rows of A. ``rows`` (G, lead+R, W, N): the same below the image row
    above them, where there is one (``lead`` = 1); ``top`` is the image row of ``rows[:, 0]``."""

    new: Tensor
    rows: Tensor
    lead: int
    top: int


def _blocks(q_BNd: Tensor, k_BNd: Tensor, grid: Grid) -> Iterator[tuple[slice, slice, _Block]]:
    """(items, positions, block of A) in row-major order; blocks share one buffer.

    The softmax replaces the scores where they are: rows are independent, and an element is
    written after the last time its row is read.
    """
    group, count = grid.group(q_BNd)
    room = 1 if count < grid.height else 0
    h, w, n = grid.height, grid.width, grid.n
    rolling = q_BNd.new_empty(group, room + count, w, n)
    for b in range(0, q_BNd.shape[0], group):
        items = slice(b, min(b + group, q_BNd.shape[0]))
        g = items.stop - b
        for y in range(0, h, count):
            breathe()
            r = min(count, h - y)
            if y:
                rolling[:, 0].copy_(rolling[:, count])
            positions = slice(y * w, (y + r) * w)
            new = rolling[:g, room : room + r].flatten(1, 2)
            torch.bmm(q_BNd[items, positions] * grid.scale, k_BNd[items].mT, out=new)
            torch.softmax(new, -1, out=new)
            lead = 1 if y else 0
            yield items, positions, _Block(new, rolling[:g, room - lead : room + r], lead, y - lead)


def _max_edges(rows_GRWN: Tensor, step_GHW: Tensor, top: int, lead: int, slab: int) -> None:
    """Raise ``step`` to the distances between neighbours inside ``rows``, ``slab`` image rows at a
    time, those between the first ``lead`` rows left out (4 directions suffice: a distance counts
    at both ends)."""
    r, w = rows_GRWN.shape[1:3]
    scratch = torch.empty_like(rows_GRWN[:, : min(slab, r)]).view(-1)

    def raise_to(a: tuple[slice, slice], b: tuple[slice, slice]) -> None:
        one, other = rows_GRWN[:, a[0], a[1]], rows_GRWN[:, b[0], b[1]]
        if one.numel() == 0:
            return
        gap = scratch[: one.numel()].view(one.shape)
        distance = torch.sub(one, other, out=gap).abs_().amax(-1)
        for end in (a, b):
            view = step_GHW[:, end[0].start + top : end[0].stop + top, end[1]]
            torch.maximum(view, distance, out=view)

    left, right, every = slice(0, w - 1), slice(1, w), slice(0, w)
    for y in range(lead, r, slab):
        stop = min(y + slab, r)
        lower = slice(max(y, 1), stop)
        upper = slice(lower.start - 1, stop - 1)
        raise_to((slice(y, stop), left), (slice(y, stop), right))
        raise_to((upper, every), (lower, every))
        raise_to((upper, left), (lower, right))
        raise_to((upper, right), (lower, left))
