"""The core that the pairwise mechanisms share: who asks, who answers, who is seen.

Legend: B batch, C channels, M heads, d key channels and e value channels of one head, N positions,
Omega(i) the neighbourhood of position i. With 1x1 convolutions W_q, W_k, W_v and W_o:

``y_i = W_o concat_m sum_{j in Omega(i)} softmax_j(scale q_im . k_jm) v_jm``

Non-local blocks, DANet's position attention, axial, criss-cross, interlaced, windowed and
transformer attention differ in Omega, in the scale, in what the projections look like and in what
is done with y; those are the arguments of :class:`Pairwise`. Where the neighbourhood is the whole
map nothing of size N x N is held; rows are computed for the queried positions alone.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Structure
from napari_attnseg.attention.layers import Norm, conv
from napari_attnseg.attention.neighbourhood import Everywhere, Extra, Neighbourhood, Size
from napari_attnseg.attention.recording import Geometry, Probe
from napari_attnseg.errors import InputError

KEY_BIAS = "adds q_i . b to all scores of row i, and softmax ignores a row constant"
"""Why the bias of a key projection does nothing."""


def line(inside: int, outside: int, ndim: int = 2, bias: bool = True) -> nn.Module:
    """A 1x1 convolution."""
    return conv(ndim, inside, outside, bias=bias)


def normed(inside: int, outside: int, ndim: int = 2, times: int = 1) -> nn.Sequential:
    """``times`` (1x1 convolution, batch normalisation, ReLU)."""
    layers: list[nn.Module] = []
    for i in range(times):
        layers += [line(outside if i else inside, outside, ndim, bias=False)]
        layers += [Norm(outside), nn.ReLU()]
    return nn.Sequential(*layers)


def check_ndim(ndim: int) -> int:
    """2 or 3; raises ``InputError`` otherwise."""
    if ndim not in (2, 3):
        raise InputError(f"got ndim={ndim}, expected 2 or 3")
    return ndim


def inner_of(channels: int, inner: int | None, part: int) -> int:
    """``inner`` channels, by default ``channels / part`` and at least 1."""
    chosen = max(1, channels // part) if inner is None else inner
    if chosen < 1:
        raise InputError(f"got inner_channels={inner}, expected at least 1")
    return chosen


def heads_of(channels: int, heads: int | None, most: int = 8, least: int = 1) -> int:
    """``heads``, by default as many up to ``most`` as divide the channels into equal parts of at
    least ``least``. Raises ``InputError`` where the given number does not divide them."""
    if heads is None:
        fitting = [m for m in range(1, most + 1) if channels % m == 0 and channels // m >= least]
        return max(fitting, default=1)
    if heads < 1 or channels % heads:
        raise InputError(f"got heads={heads}, expected a divisor of the {channels} channels")
    return heads


def dealt(x: Tensor, heads: int) -> Tensor:
    """(B, M * d, *grid) to (B, M, d, *grid)."""
    return x.unflatten(1, (heads, -1))


class Pairwise(nn.Module):
    """(B, C, *grid) to (B, out channels, *grid); see the module's formula.

    ``query``, ``key``, ``value``, ``out``: projections (``None``: as it comes; ``key`` ``None`` and
    ``shared``: the query's). ``scale`` (``None``: 1 / sqrt(d)). ``key`` and ``value`` read the
    context where one is given.
    """

    def __init__(
        self,
        query: nn.Module,
        key: nn.Module | None,
        value: nn.Module,
        out: nn.Module | None = None,
        *,
        heads: int = 1,
        scale: float | None = None,
        hood: Neighbourhood | None = None,
    ) -> None:
        super().__init__()
        self.query, self.value = query, value
        self.key = key
        self.out = out or nn.Identity()
        self.heads, self.scale = heads, scale
        self.hood = hood or Everywhere()

    def parts(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v: (B, M, channels, *grid)."""
        asked = x if context is None else context
        q = self.query(x)
        k = self.key(asked) if self.key is not None else q if context is None else self.query(asked)
        return dealt(q, self.heads), dealt(k, self.heads), dealt(self.value(asked), self.heads)

    def factor(self, q: Tensor) -> float:
        """The scale of the scores of ``q``."""
        return float(q.shape[2]) ** -0.5 if self.scale is None else self.scale

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, M * e, *grid), before the output projection."""
        return self.hood.mix(q, k, v, self.factor(q)).flatten(1, 2)

    def forward(
        self, x: Tensor, context: Tensor | None = None, probe: Probe | None = None, name: str = ""
    ) -> Tensor:
        """y; into ``probe`` go the attention received and the rows of the queried positions."""
        q, k, v = self.parts(x, context)
        if probe is not None:
            show(probe, self.hood, q, k, self.factor(q), name=name)
        mixed: Tensor = self.out(self.mix(q, k, v))
        return mixed

    def operator(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, M, N, N) on a tiny grid."""
        q, k, _ = self.parts(x, context)
        return self.hood.materialise(q, k, self.factor(q))

    def values(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, M, e, N)."""
        return self.parts(x, context)[2].flatten(3)

    def collect(self, mixed_BMeN: Tensor, grid: Size) -> Tensor:
        """y from the mixed values."""
        y: Tensor = self.out(mixed_BMeN.flatten(1, 2).unflatten(2, grid))
        return y


def show(
    probe: Probe,
    hood: Neighbourhood,
    q: Tensor,
    k: Tensor,
    scale: float,
    *,
    name: str = "",
    extra: Extra | None = None,
    geometry: Geometry | None = None,
    **terms: Tensor | None,
) -> None:
    """Note the attention received and, of every queried position, its row.

    ``name``: of the pass, where a module has several. ``extra`` and ``terms``: the same addition
    to the scores, for one row and for ``hood.mix``. ``geometry``: of the keys (``None``: they
    fill the grid of the queries evenly).
    """
    over = tuple(q.shape[3:])
    where = geometry or Geometry.over(over, tuple(k.shape[3:]))
    after = f" {name}" if name else ""
    probe.note(f"received{after}", hood.received(q, k, scale, **terms), "spatial", where)
    for i, at in enumerate(probe.cells(over)):
        note_row(probe, hood.row(q, k, at, scale, extra), i, where, f"row{after}")


def note_row(
    probe: Probe, row: Tensor, query: int, geometry: Geometry | None = None, name: str = "row"
) -> None:
    """Note what queried position number ``query`` attends to: (B, M, *grid); of a single head as
    (B, *grid)."""
    values = row[:, 0] if row.shape[1] == 1 else row
    probe.note(name, values, "row", geometry, query=query)


class PairwiseModule(AttentionModule):
    """A refiner around one :class:`Pairwise`, ``self.pairs``: y = collect(mixed values)."""

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True
    pairs: Pairwise

    def operator(self, *inputs: Tensor) -> Tensor:
        return self.pairs.operator(*inputs)

    def values(self, *inputs: Tensor) -> Tensor:
        return self.pairs.values(*inputs)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        return self.finish(self.pairs.collect(mixed_BMCN, tuple(inputs[0].shape[2:])), *inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to the same."""
        return self.finish(self.pairs(x, probe=self.probe), x)

    def finish(self, y: Tensor, *inputs: Tensor) -> Tensor:
        """What becomes of the core's answer: added to the input."""
        return inputs[0] + y
