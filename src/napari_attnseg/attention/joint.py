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

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, register_attention
from napari_attnseg.attention.dot_product import NonLocal
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

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
SIGMAS = ("sigmoid", "none")
STRENGTH_DOC = (
    "How much of what the attention changes is let through: 0 leaves the features as they came, "
    "1 is as trained."
)


def form_of(structure: int, parallel_merge: str = "gate") -> Form:
    """The formula of a structure; raises ``InputError`` for one that the paper does not have."""
    if structure not in STRUCTURES:
        raise InputError(f"got structure={structure}, expected 1 to {len(STRUCTURES)}")
    if parallel_merge not in MERGES:
        raise InputError(f"got parallel_merge {parallel_merge!r}, expected {' or '.join(MERGES)}")
    return SUMS[structure] if parallel_merge == "sum" and structure in SUMS else FORMS[structure]


class PointWiseMap(nn.Module):
    """``w(x) = sigma(conv3x3(x))``: (B, C, H, W) to (B, 1, H, W); 9 C + 1 parameters.

    ``sigma="none"`` is the paper's analysis (equation 2); a sigmoid, the default, is what
    point-wise attention in the works it cites has.
    """

    def __init__(self, channels: int, sigma: str = "sigmoid") -> None:
        super().__init__()
        if sigma not in SIGMAS:
            raise InputError(f"got sigma {sigma!r}, expected {' or '.join(SIGMAS)}")
        self.sigma = sigma
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        w = self.conv(x_BCHW)
        return torch.sigmoid(w) if self.sigma == "sigmoid" else w

    def extra_repr(self) -> str:
        return f"sigma={self.sigma!r}"


class _Refiner(AttentionModule):
    """``x + strength * (attended(x) - x)``, and just ``attended(x)`` at strength 1."""

    def forward(self, x_BCHW: Tensor, strength: float = 1.0) -> Tensor:
        """(B, C, H, W) to the same; ``strength`` in [0, 1]."""
        if strength == 0 and self.probe is None:
            return x_BCHW
        y = self.attended(x_BCHW)
        return y if strength == 1 else torch.lerp(x_BCHW, y, strength)

    @abstractmethod
    def attended(self, x_BCHW: Tensor) -> Tensor:
        """The paper's module."""

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        return (Tunable("strength", "float", 1.0, "gate", STRENGTH_DOC),)

    def _noted(self, w_B1HW: Tensor, sigma: str) -> Tensor:
        if self.probe is not None:
            kind = "spatial" if sigma == "sigmoid" else "signed"
            self.probe.note("pointwise", w_B1HW.squeeze(1), kind)  # type: ignore[arg-type]
        return w_B1HW


@register_attention(
    "nonlocal",
    id="A18",
    title="Non-local block",
    paper="Wang, Girshick, Gupta & He: Non-local Neural Networks (CVPR 2018)",
    kinds=("signed", "row"),
    aliases=("self_attention",),
)
class SelfAttention(_Refiner):
    """``A(x) + x`` (equation 5 with the residual of the non-local block).

    ``inner_channels``: d of theta, phi and g (``None``: C/2).
    """

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    identity_at_start: ClassVar[bool] = True

    def __init__(self, channels: int, inner_channels: int | None = None) -> None:
        super().__init__()
        self.a = NonLocal(channels, inner_channels)

    def attended(self, x_BCHW: Tensor) -> Tensor:
        return self.a(x_BCHW, self.probe) + x_BCHW


@register_attention(
    "pointwise",
    id="A08",
    title="Point-wise attention",
    paper="Joint Attention for Medical Image Segmentation, equations 2 to 4",
    kinds=("spatial", "signed"),
)
class PointWiseAttention(_Refiner):
    """``x * w(x)`` (equation 4). ``sigma``: ``"sigmoid"`` or ``"none"``."""

    maps: ClassVar[tuple[str, ...]] = ("pointwise",)

    def __init__(self, channels: int, sigma: str = "sigmoid") -> None:
        super().__init__()
        self.w = PointWiseMap(channels, sigma)

    def attended(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self._noted(self.w(x_BCHW), self.w.sigma)


@register_attention(
    "joint",
    id="A35",
    title="Joint Attention",
    paper="Joint Attention for Medical Image Segmentation",
    kinds=("spatial", "signed", "row"),
)
class JointAttention(_Refiner):
    """One of the nine structures (see the module's table).

    ``structure`` 1 to 9; ``parallel_merge`` ``"gate"`` or ``"sum"`` (of structures 1 to 3 alone);
    ``inner_channels``: d of the self-attention (``None``: C/2); ``sigma`` of the point-wise map,
    ``"sigmoid"`` or ``"none"``. 4 C d + 3 d + 10 C + 1 parameters.
    """

    maps: ClassVar[tuple[str, ...]] = ("pointwise", "received", "row")
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
    ) -> None:
        super().__init__()
        form_of(structure, parallel_merge)  # refuses what does not exist
        self.number = structure
        self.parallel_merge = parallel_merge
        self.a = NonLocal(channels, inner_channels)
        self.w = PointWiseMap(channels, sigma)

    def attended(self, x_BCHW: Tensor) -> Tensor:
        form = form_of(self.number, self.parallel_merge)
        return form(
            x_BCHW,
            lambda v: self.a(v, self.probe),
            lambda v: self._noted(self.w(v), self.w.sigma),
        )

    def extra_repr(self) -> str:
        return f"structure={self.number}, parallel_merge={self.parallel_merge!r}"
