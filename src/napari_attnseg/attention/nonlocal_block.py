"""Non-local blocks (Wang, Girshick, Gupta & He, CVPR 2018), equations 1 to 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention import dot_product
from napari_attnseg.attention.base import Structure, register_attention
from napari_attnseg.attention.dot_product import NonLocal, pixelwise
from napari_attnseg.attention.layers import Strengthened
from napari_attnseg.attention.neighbourhood import Everywhere, places
from napari_attnseg.attention.pairwise import KEY_BIAS, check_ndim, note_row, show
from napari_attnseg.attention.recording import Geometry, Probe
from napari_attnseg.errors import InputError

MODES = ("embedded", "gaussian", "dot", "concatenation")
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


class Form(NonLocal):
    """One pairwise function f: ``W_z sum_j f(x_i, x_j) g(x_j) / C(x)``, without a residual.

    ``pool``: phi and g are read from x with the largest of pool x pool positions left.
    """

    signed: ClassVar[bool] = False

    def __init__(self, channels: int, inner: int | None, ndim: int, pool: int) -> None:
        super().__init__(channels, inner, ndim)
        self.ndim, self.pool = ndim, pool

    def source(self, x: Tensor) -> Tensor:
        """What phi and g read: maxima commute with nothing, so they are taken of x."""
        if self.pool == 1:
            return x
        return POOL[self.ndim](x, self.pool, ceil_mode=True)

    def forward(self, x: Tensor, probe: Probe | None = None) -> Tensor:
        if probe is not None:
            self.show(probe, x)
        return pixelwise(self.w_z, self.mixed(x)).unflatten(2, x.shape[2:])

    def mixed(self, x: Tensor) -> Tensor:
        """sum_j f g / C: (B, d, N)."""
        raise NotImplementedError

    def rows(self, x: Tensor, at: tuple[int, ...]) -> Tensor:
        """f / C of position ``at``: (B, 1, *grid of the keys)."""
        raise NotImplementedError

    def mean_row(self, x: Tensor) -> Tensor:
        """Mean over all positions of their rows: (B, *grid of the keys)."""
        raise NotImplementedError

    def show(self, probe: Probe, x: Tensor) -> None:
        """Note the mean row, and the rows of the queried positions alone."""
        mean = self.mean_row(x)
        where = Geometry.over(x.shape[2:], mean.shape[1:])
        probe.note("received", mean, "signed" if self.signed else "spatial", where)
        for i, at in enumerate(probe.cells(x.shape[2:])):
            note_row(probe, self.rows(x, at), i, where)

    def value(self, x: Tensor) -> Tensor:
        """g: (B, d, keys)."""
        return pixelwise(self.g, self.source(x).flatten(2))

    def operator(self, x: Tensor) -> Tensor:
        """(B, 1, N, keys)."""
        return torch.cat([self.rows(x, at).flatten(1, -1)[:, None] for at in _all(x)], 1)[:, None]


class DotForm(Form):
    """``f = theta_i . phi_j``, ``C = N``: by association, without an N x N matrix."""

    signed = True

    def mixed(self, x: Tensor) -> Tensor:
        theta, phi = self._parts(x)
        return dot_product.mix(theta, phi, self.value(x), self.order)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return pixelwise(self.theta, x.flatten(2)), pixelwise(self.phi, self.source(x).flatten(2))

    def rows(self, x: Tensor, at: tuple[int, ...]) -> Tensor:
        theta, phi = self._parts(x)
        row = dot_product.row(theta, phi, _flat(at, x))
        return row.unflatten(1, self.source(x).shape[2:])[:, None]

    def mean_row(self, x: Tensor) -> Tensor:
        return dot_product.received(*self._parts(x)).unflatten(1, self.source(x).shape[2:])


class SoftmaxForm(Form):
    """``f = exp(theta_i . phi_j)`` over its sum, a softmax; without ``embedded`` of x itself."""

    def __init__(
        self, channels: int, inner: int | None, ndim: int, pool: int, embedded: bool
    ) -> None:
        super().__init__(channels, inner, ndim, pool)
        self.embedded = embedded
        if not embedded:
            del self.theta, self.phi

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q, k (B, 1, d, *grid)."""
        source = self.source(x)
        if not self.embedded:
            return x.unsqueeze(1), source.unsqueeze(1)
        return self.theta(x).unsqueeze(1), self.phi(source).unsqueeze(1)

    def mixed(self, x: Tensor) -> Tensor:
        q, k = self._parts(x)
        return Everywhere().mix(q, k, self.g(self.source(x)).unsqueeze(1), 1.0)[:, 0].flatten(2)

    def rows(self, x: Tensor, at: tuple[int, ...]) -> Tensor:
        return Everywhere().row(*self._parts(x), at, 1.0)

    def show(self, probe: Probe, x: Tensor) -> None:
        show(probe, Everywhere(), *self._parts(x), 1.0)


class ConcatForm(Form):
    """``f = relu(w . [theta_i, phi_j])``, ``C = N``.

    With ``a_i = w_1 . theta_i`` and ``b_j = w_2 . phi_j`` this is ``relu(a_i + b_j)``: after
    sorting the b, position i sees all keys from a certain one on, and
    ``sum = a_i sum g_j + sum b_j g_j`` over those comes from two running sums; N log N, no N x N.
    """

    def __init__(self, channels: int, inner: int | None, ndim: int, pool: int) -> None:
        super().__init__(channels, inner, ndim, pool)
        self.w = nn.Parameter(torch.randn(2, self.theta.out_channels) * channels**-0.5)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a (B, N), b (B, keys)."""
        theta = pixelwise(self.theta, x.flatten(2))
        phi = pixelwise(self.phi, self.source(x).flatten(2))
        a, b = (torch.einsum("c,bcn->bn", w, t) for w, t in zip(self.w, (theta, phi), strict=True))
        return a, b

    def mixed(self, x: Tensor) -> Tensor:
        a, b = self._parts(x)
        return relu_sums(a, b, self.value(x)) / b.shape[1]

    def rows(self, x: Tensor, at: tuple[int, ...]) -> Tensor:
        a, b = self._parts(x)
        row = torch.relu(a[:, _flat(at, x), None] + b) / b.shape[1]
        return row.unflatten(1, self.source(x).shape[2:])[:, None]

    def mean_row(self, x: Tensor) -> Tensor:
        """The same sums with the roles of a and b exchanged."""
        a, b = self._parts(x)
        mean = relu_sums(b, a, torch.ones_like(a)[:, None])[:, 0] / (a.shape[1] * b.shape[1])
        return mean.clamp(min=0).unflatten(1, self.source(x).shape[2:])


def relu_sums(a_BN: Tensor, b_BK: Tensor, g_BdK: Tensor) -> Tensor:
    """``sum_j relu(a_i + b_j) g_j``: (B, d, N), differentiable, in O(K log K + N d)."""
    wide = g_BdK.dtype if g_BdK.device.type == "mps" else torch.float64
    b, order = b_BK.sort(1, descending=True)
    g = g_BdK.gather(2, order[:, None].expand_as(g_BdK)).to(wide)
    sums = F.pad(torch.stack([g, b[:, None].to(wide) * g], 1).cumsum(-1), (1, 0))
    seen = torch.searchsorted(-b.detach(), a_BN.detach().contiguous())
    of_g, of_bg = sums.gather(3, seen[:, None, None].expand(-1, 2, g.shape[1], -1)).unbind(1)
    return (a_BN[:, None].to(wide) * of_g + of_bg).to(g_BdK.dtype)


def _all(x: Tensor) -> list[tuple[int, ...]]:
    return list(places(tuple(x.shape[2:])))


def _flat(at: tuple[int, ...], x: Tensor) -> int:
    out = 0
    for i, n in zip(at, x.shape[2:], strict=True):
        out = out * n + i
    return out


@register_attention(
    "nonlocal",
    id="A18",
    title="Non-local block",
    paper="Wang, Girshick, Gupta & He: Non-local Neural Networks (CVPR 2018)",
    kinds=("spatial", "signed", "row"),
    ndim=(2, 3),
    aliases=("self_attention",),
)
class NonLocalAttention(Strengthened):
    """Every position gathers from all positions, by how well pairs of features match.

    Formula:
        y_i = x_i + W_z sum_j f(x_i, x_j) g(x_j) / C(x)

        embedded:      f = exp(theta_i . phi_j), C = sum_j f   (a softmax)
        gaussian:      f = exp(x_i . x_j), C = sum_j f
        dot:           f = theta_i . phi_j, C = N
        concatenation: f = relu(w . [theta_i, phi_j]), C = N

    Symbols:
        x, y: features (B, C, N), N positions
        theta, phi, g: 1x1 convolutions C to c = C / 2
        w: (2 c); W_z: 1x1 convolution c to C, zero at the start, where the module is the identity

    Cost:
        4 N C c + 2 N^2 c multiply-adds (embedded, gaussian); 4 N C c + 2 N c^2 (dot, by
        association); 4 N C c + N log N (concatenation, by sorting). 8 352 parameters at C = 64.
        No form holds the N x N matrix.

    Notes:
        Scores are not divided by sqrt(c), as in the paper. The published code halves the grid of
        phi and g by maxima, the paper's optional trick: pool=2. With pool the rows show the
        coarser grid.

    Args:
        mode: embedded, gaussian, dot or concatenation
        inner_channels: c (None: C / 2)
        pool: phi and g see the maximum of pool x pool positions; 1 all of them
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}
    inert: ClassVar[dict[str, str]] = {
        "a.phi.bias": f"{KEY_BIAS} (it acts in dot and concatenation)"
    }
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True
    identity_at_start: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        mode: str = "embedded",
        pool: int = 1,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        check_ndim(ndim)
        self.mode = self.checked("mode", mode)
        if pool < 1:
            raise InputError(f"got pool={pool}, expected at least 1")
        self.a: Form
        if mode in ("embedded", "gaussian"):
            self.a = SoftmaxForm(channels, inner_channels, ndim, pool, mode == "embedded")
        else:
            form = DotForm if mode == "dot" else ConcatForm
            self.a = form(channels, inner_channels, ndim, pool)

    def attended(self, x_BCN: Tensor) -> Tensor:
        return self.a(x_BCN, self.probe) + x_BCN

    def operator(self, *inputs: Tensor) -> Tensor:
        return self.a.operator(inputs[0])

    def values(self, *inputs: Tensor) -> Tensor:
        return self.a.value(inputs[0])[:, None]

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return x + pixelwise(self.a.w_z, mixed_BMCN[:, 0]).view_as(x)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"
