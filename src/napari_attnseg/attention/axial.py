"""Axial attention (Ho et al., 2019) and its position-sensitive form (Wang et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.layers import Norm
from napari_attnseg.attention.neighbourhood import Line, Size, places
from napari_attnseg.attention.pairwise import (
    Pairwise,
    check_ndim,
    dealt,
    heads_of,
    line,
    note_row,
)
from napari_attnseg.attention.recording import Probe
from napari_attnseg.errors import InputError


class PlainPass(Pairwise):
    """Multi-head attention along one axis."""

    def __init__(self, channels: int, heads: int, axis: int, ndim: int, span: int) -> None:
        q, k, v = (line(channels, channels, ndim, bias=False) for _ in range(3))
        super().__init__(q, k, v, line(channels, channels, ndim), heads=heads, hood=Line(axis))

    def rows(self, x: Tensor, at: Size) -> Tensor:
        """Attention of position ``at``: (B, M, *grid)."""
        q, k, _ = self.parts(x)
        return self.hood.row(q, k, at, self.factor(q))


class PositionPass(nn.Module):
    """Attention along one axis that knows where keys lie (Wang et al., equation 4):
    ``sum_p softmax_p(q_o . k_p + q_o . r^q_{p-o} + k_p . r^k_{p-o}) (v_p + r^v_{p-o})``."""

    def __init__(self, channels: int, heads: int, axis: int, ndim: int, span: int) -> None:
        super().__init__()
        self.heads, self.axis, self.span = heads, axis, span
        e = channels // heads
        d = max(1, e // 2)
        self.hood = Line(axis)
        wide = heads * (2 * d + e)
        self.project = nn.Sequential(line(channels, wide, ndim, bias=False), Norm(wide))
        self.relative = nn.Parameter(torch.randn(2 * span - 1, 2 * d + e) * e**-0.5)
        self.norms = nn.ModuleList(Norm(heads) for _ in range(3))
        self.finish = Norm(channels)
        self.widths = [d, d, e]

    def _parts(self, x: Tensor) -> list[Tensor]:
        """q, k, v along the lines: (B * G, M, n, channels)."""
        y = dealt(self.project(x), self.heads)
        return [self.hood.split(t) for t in y.split(self.widths, 2)]

    def _steps(self, n: int) -> list[Tensor]:
        """r^q, r^k, r^v of all pairs of a line: (n, n, channels), [o, p] for the step p - o.
        Steps beyond the span count as the longest."""
        at = torch.arange(n, device=self.relative.device)
        steps = (at[None] - at[:, None]).clamp(1 - self.span, self.span - 1) + self.span - 1
        return list(self.relative[steps].split(self.widths, -1))

    def weights(self, q: Tensor, k: Tensor, r_q: Tensor, r_k: Tensor) -> Tensor:
        """(B * G, M, n, n); each kind of score is normalised by itself."""
        scores = self.norms[0](q @ k.mT)
        scores = scores + self.norms[1](torch.einsum("gmod,opd->gmop", q, r_q))
        scores = scores + self.norms[2](torch.einsum("gmpd,opd->gmop", k, r_k))
        return torch.softmax(scores, -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._parts(x)
        r_q, r_k, r_v = self._steps(q.shape[2])
        a = self.weights(q, k, r_q, r_k)
        mixed = a @ v + torch.einsum("gmop,ope->gmoe", a, r_v)
        y: Tensor = self.finish(self.hood.join(mixed, tuple(x.shape[2:])).flatten(1, 2))
        return y

    def rows(self, x: Tensor, at: Size) -> Tensor:
        """Attention of position ``at``: (B, M, *grid). Its line alone is computed."""
        grid = tuple(x.shape[2:])
        here = tuple(slice(None) if i == self.axis else slice(a, a + 1) for i, a in enumerate(at))
        q, k, _ = self._parts(x[(..., *here)])
        r_q, r_k, _ = self._steps(q.shape[2])
        out = x.new_zeros(x.shape[0], self.heads, prod(grid))
        out[..., self.hood.keys(at, grid).to(x.device)] = self.weights(q, k, r_q, r_k)[
            :, :, at[self.axis]
        ]
        return out.unflatten(2, grid)


@register_attention(
    "axial",
    id="A20",
    title="Axial attention",
    paper="Ho et al.: Axial Attention in Multidimensional Transformers (2019); Wang et al.: "
    "Axial-DeepLab (ECCV 2020)",
    kinds=("row", "spatial"),
    ndim=(2, 3),
)
class AxialAttention(AttentionModule):
    """Attention along columns, then along rows: together every position reaches every other.

    Formula:
        pass_a(x)_i = W_o concat_m sum_{j in line_a(i)} softmax_j(q_im . k_jm / sqrt(d)) v_jm
        y = pass_W(pass_H(x))

        position-sensitive, in place of the sum over j:
        sum_j softmax_j(q_i . k_j + q_i . r^q_{j-i} + k_j . r^k_{j-i}) (v_j + r^v_{j-i})

    Symbols:
        x, y: features (B, C, H, W); line_a(i): the positions of i's line along axis a
        q, k, v: 1x1 convolutions of x, C channels in M heads of d = C / M, without bias (q and k
        half as wide when position-sensitive)
        W_o: 1x1 convolution C to C
        r^q, r^k, r^v: learned for every step along the line, shared by the heads

    Cost:
        8 N C^2 + 2 N (H + W) C multiply-adds, M N (H + W) weights; 32 896 parameters at C = 64.

    Notes:
        Each of the three scores of the position-sensitive form is batch-normalised, as are q, k, v
        and the answer; then nothing is divided by sqrt(d). Sizes are not known when the module is
        made: steps longer than span - 1 use the longest one's vector. Axes are exchanged by a true
        permutation; one public implementation reshapes instead, and mixes along the same axis
        twice. In volumes three passes.

    Args:
        variant: plain, or position (position-sensitive)
        heads: M (None: as many up to 8 as divide the channels)
        span: steps along a line that have vectors of their own (position)
        residual: add the input
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row", "row last")
    inert: ClassVar[dict[str, str]] = {
        f"passes.{axis}.norms.{kind}.bias": "adds the same to all scores, which softmax ignores"
        for axis in range(3)
        for kind in range(3)
    }
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"variant": ("plain", "position")}
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        variant: str = "plain",
        heads: int | None = None,
        span: int = 64,
        residual: bool = False,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if span < 1:
            raise InputError(f"got span={span}, expected at least 1")
        self.variant, self.residual = self.checked("variant", variant), residual
        kind = PlainPass if variant == "plain" else PositionPass
        m = heads_of(channels, heads)
        self.passes = nn.ModuleList(
            kind(channels, m, axis, ndim, span) for axis in range(check_ndim(ndim))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        y = x
        inputs = []
        for step in self.passes:
            inputs.append(y)
            y = step(y)
        if self.probe is not None:
            self._note(self.probe, inputs)
        return x + y if self.residual else y

    def _note(self, probe: Probe, inputs: list[Tensor]) -> None:
        """The row of the last pass head by head, and the mean over heads of all passes together,
        through the rows that the later pass looks at alone."""
        grid = tuple(inputs[0].shape[2:])
        probe.note("received", self._received(inputs[-1]), "spatial")
        for i, at in enumerate(probe.cells(grid)):
            note_row(probe, self.passes[-1].rows(inputs[-1], at), i, name="row last")
            note_row(probe, self.row(inputs, at).unsqueeze(1), i)

    def row(self, inputs: list[Tensor], at: Size) -> Tensor:
        """What ``at`` gathers from where through the passes that got ``inputs``, mean over heads:
        (B, *grid), sums to 1."""
        depth = len(inputs) - 1
        row = self.passes[depth].rows(inputs[depth], at).mean(1)
        if depth == 0:
            return row
        out = torch.zeros_like(row)
        for key in Line(depth).keys(at, tuple(row.shape[1:])).tolist():
            there = _position(key, tuple(row.shape[1:]))
            weight = row[(slice(None), *there)].view(-1, *(1,) * len(there))
            out += weight * self.row(inputs[:-1], there)
        return out

    def _received(self, x: Tensor) -> Tensor:
        """Mean attention that each position gets in the last pass: (B, *grid)."""
        step = self.passes[-1]
        if isinstance(step, PlainPass):
            q, k, _ = step.parts(x)
            return step.hood.received(q, k, step.factor(q))
        assert isinstance(step, PositionPass)
        q, k, _ = step._parts(x)
        a = step.weights(q, k, *step._steps(q.shape[2])[:2])
        n, grid = a.shape[-1], tuple(x.shape[2:])
        return step.hood.join(a.mean(2).unsqueeze(-1), grid).mean(1)[:, 0] * (n / prod(grid))

    # Two passes of M heads are one of M x M: y = sum_{m,m'} A2_m A1_m' (W2_m W1_m' x) + bias.

    def operator(self, *inputs: Tensor) -> Tensor:
        x, out = inputs[0], None
        for step in self.passes:
            rows = [step.rows(x, at).flatten(2) for at in places(tuple(x.shape[2:]))]
            a = torch.stack(rows, 2)
            out = a if out is None else torch.einsum("bmij,bojk->bomik", a, out).flatten(1, 2)
            x = step(x)
        assert out is not None
        return out

    def values(self, *inputs: Tensor) -> Tensor:
        """Only of the plain form, whose passes are linear given their weights."""
        out = inputs[0].flatten(2).unsqueeze(1)
        for step in self.passes:
            assert isinstance(step, PlainPass)
            v = step.value.get_parameter("weight").flatten(1).unflatten(0, (step.heads, -1))
            o = step.out.get_parameter("weight").flatten(1).unflatten(1, (step.heads, -1))
            per_head = torch.einsum("ome,mec->moc", o, v)
            out = torch.einsum("moc,bgcn->bgmon", per_head, out).flatten(1, 2)
        return out

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        y = mixed_BMCN.sum(1)
        carried = torch.zeros((), dtype=x.dtype, device=x.device)
        for step in self.passes:  # a bias is the same everywhere: it passes through every A
            assert isinstance(step, PlainPass)
            v = step.value.get_parameter("weight").flatten(1)
            o = step.out.get_parameter("weight").flatten(1)
            moved = o @ (v @ carried) if carried.ndim else carried
            carried = moved + step.out.get_parameter("bias")
        y = (y + carried[:, None]).view_as(x)
        return x + y if self.residual else y

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}, residual={self.residual}"


def _position(flat: int, grid: Size) -> Size:
    out = []
    for n in reversed(grid):
        out.append(flat % n)
        flat //= n
    return tuple(out[::-1])
