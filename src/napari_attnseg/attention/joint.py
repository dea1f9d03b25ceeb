"""Joint Attention (Zhang, Dong, Li): self-attention and point-wise attention in one module.

With ``A(x) = W_z NL(x)`` (dot-product self-attention without residual, see ``dot_product``) and
``w(x) = sigma(conv3x3(x))``, one channel:

| structure | order | formula |
|---|---|---|
| 1 | parallel | (A(x) + x) * w(x) |
| 2 | parallel | A(x) * w(x) + x |
| 3 | parallel | u = A(x) + x; u * w(x) + u |
| 4 | self-attention first | u = A(x) + x; u * w(u) |
| 5 | self-attention first | a = A(x); a * w(a) + x |
| 6 | self-attention first | u = A(x) + x; u * w(u) + u |
| 7 | point-wise first | p = x * w(x); A(p) + p |
| 8 | point-wise first | p = x * w(x); A(p) + x |
| 9 | point-wise first | p = x * w(x) + x; A(p) + p |

The shortcut lies inside the point-wise product (1, 4, 7), outside (2, 5, 8), or the point-wise
attention has one of its own (3, 6, 9). The paper draws the structures and gives no formulas; its
parallel ones can also be read as a sum of both branches, ``parallel_merge="sum"``:
1: A(x) + x * w(x); 2: A(x) + x * w(x) + x; 3: (A(x) + x) + (x * w(x) + x). Which structure won is
not stated either. 5 is the default here: a fresh one is the identity, and so are 2 and 8.

A(x) grows with the third power of x. Where the point-wise map sees it (4 to 6) on features that
nothing normalises, as a dense block's, the sigmoid may saturate early in training and then learns
no more; the map of 2 and 8 sees x itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from napari_attnseg.attention.base import Structure, register_attention
from napari_attnseg.attention.dot_product import NonLocal, pixelwise
from napari_attnseg.attention.layers import Strengthened
from napari_attnseg.attention.pointwise import SIGMAS, PointWiseMap, noted
from napari_attnseg.errors import InputError

Branch = Callable[[Tensor], Tensor]
Form = Callable[[Tensor, Branch, Branch], Tensor]
"""(x, A, w) to the module's output."""
FORMS: dict[int, Form] = {
    1: lambda x, A, w: (A(x) + x) * w(x),
    2: lambda x, A, w: A(x) * w(x) + x,
    3: lambda x, A, w: (u := A(x) + x) * w(x) + u,
    4: lambda x, A, w: (u := A(x) + x) * w(u),
    5: lambda x, A, w: (a := A(x)) * w(a) + x,
    6: lambda x, A, w: (u := A(x) + x) * w(u) + u,
    7: lambda x, A, w: A(p := x * w(x)) + p,
    8: lambda x, A, w: A(x * w(x)) + x,
    9: lambda x, A, w: A(p := x * w(x) + x) + p,
}
SUMS: dict[int, Form] = {
    1: lambda x, A, w: A(x) + x * w(x),
    2: lambda x, A, w: A(x) + x * w(x) + x,
    3: lambda x, A, w: (A(x) + x) + (x * w(x) + x),
}
"""The parallel structures where both branches are added."""
STRUCTURES = tuple(FORMS)
MERGES = ("gate", "sum")


def form_of(structure: int, parallel_merge: str = "gate") -> Form:
    """The formula of a structure; raises ``InputError`` for one that the paper does not have."""
    if structure not in STRUCTURES:
        raise InputError(f"got structure={structure}, expected 1 to {len(STRUCTURES)}")
    if parallel_merge not in MERGES:
        raise InputError(f"got parallel_merge {parallel_merge!r}, expected {' or '.join(MERGES)}")
    return SUMS[structure] if parallel_merge == "sum" and structure in SUMS else FORMS[structure]


@register_attention(
    "joint",
    id="A35",
    title="Joint Attention",
    paper="Joint Attention for Medical Image Segmentation",
    kinds=("spatial", "signed", "row"),
    ndim=(2, 3),
)
class JointAttention(Strengthened):
    """Self-attention over all positions and a weight per position, in one of nine orders.

    Formula:
        A(x) = W_z sum_j (theta_i . phi_j / N) g_j,  w(x) = sigma(conv3(x))

        parallel:              1: (A(x) + x) w(x)        2: A(x) w(x) + x
                               3: u = A(x) + x, u w(x) + u
        self-attention first:  4: u = A(x) + x, u w(u)   5: a = A(x), a w(a) + x
                               6: u = A(x) + x, u w(u) + u
        point-wise first:      7: p = x w(x), A(p) + p   8: p = x w(x), A(p) + x
                               9: p = x w(x) + x, A(p) + p

    Symbols:
        x: features (B, C, N); theta, phi, g: 1x1 convolutions C to d = C / 2
        W_z: 1x1 convolution d to C, zero at the start; conv3: 3x3 convolution to one map

    Cost:
        4 N C d + 2 N d^2 + 9 N C multiply-adds by association, no N x N matrix;
        4 C d + 3 d + 10 C + 1 parameters.

    Notes:
        The paper draws the nine structures without formulas and does not say which one won. Its
        parallel ones can also be read as sums of both branches, parallel_merge="sum".

    Args:
        structure: 1 to 9; fresh ones of 2, 5 and 8 are the identity
        parallel_merge: gate, or sum, of structures 1 to 3
        inner_channels: d of the self-attention (None: C / 2)
        sigma: of the point-wise map, sigmoid or none
    """

    maps: ClassVar[tuple[str, ...]] = ("pointwise", "received", "row")
    structure: ClassVar[Structure] = "dense"
    identity_at_start: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "structure": STRUCTURES,
        "parallel_merge": MERGES,
        "sigma": SIGMAS,
    }

    def __init__(
        self,
        channels: int,
        structure: int = 5,
        parallel_merge: str = "gate",
        inner_channels: int | None = None,
        sigma: str = "sigmoid",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        form_of(structure, parallel_merge)  # refuses what does not exist
        self.number = structure
        self.parallel_merge = parallel_merge
        self.a = NonLocal(channels, inner_channels, ndim)
        self.w = PointWiseMap(channels, sigma, ndim=ndim)

    def attended(self, x_BCN: Tensor) -> Tensor:
        return self._with(x_BCN, lambda v: self.a(v, self.probe))

    def _with(self, x: Tensor, attention: Branch) -> Tensor:
        form = form_of(self.number, self.parallel_merge)
        return form(x, attention, lambda v: noted(self, self.w(v), self.w.sigma))

    # The self-attention is what has weights between positions; the rest is collected around it.

    def operator(self, *inputs: Tensor) -> Tensor:
        return self.a.operator(self._asked(inputs[0])).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        return pixelwise(self.a.g, self._asked(inputs[0]).flatten(2)).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        answer = pixelwise(self.a.w_z, mixed_BMCN[:, 0]).view_as(x)
        return self._with(x, lambda v: answer)

    def _asked(self, x: Tensor) -> Tensor:
        """What the self-attention gets: x, or x after the point-wise attention."""
        got: list[Tensor] = []

        def seen(v: Tensor) -> Tensor:
            got.append(v)
            y: Tensor = self.a(v)
            return y

        self._with(x, seen)
        return got[0]

    def extra_repr(self) -> str:
        return f"structure={self.number}, parallel_merge={self.parallel_merge!r}"
