"""Stand-alone self-attention (Ramachandran et al., NeurIPS 2019), equations 2 and 3."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, Role, Structure, register_attention
from napari_attnseg.attention.neighbourhood import Square
from napari_attnseg.attention.pairwise import check_ndim, dealt, heads_of, line, show
from napari_attnseg.errors import InputError

POOL = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


@register_attention(
    "sasa",
    id="A23",
    title="Stand-alone self-attention",
    paper="Ramachandran et al.: Stand-Alone Self-Attention in Vision Models (NeurIPS 2019)",
    kinds=("spatial", "row"),
    ndim=(2, 3),
)
class StandAloneAttention(AttentionModule):
    """In place of a convolution: each position mixes its k x k neighbours by their content.

    Formula:
        y_i = concat_m sum_{j in k x k of i} softmax_j(q_i . k_j + q_i . r_{j-i}) v_j

    Symbols:
        x: features (B, C, N); y: (B, C_out, N)
        q, k, v: 1x1 convolutions C to C_out without bias, in M heads of d = C_out / M
        r_{j-i}: relative position (d), one half from the row, one from the column; shared by heads

    Cost:
        3 N C^2 + 2 N k^2 C multiply-adds, M N k^2 weights; 12 344 parameters at C = 64, k = 7 and
        M = 8, of which k enters only the table of relative positions.

    Notes:
        Scores are summed over the channels of a head, and neighbours outside the image are left
        out. A well-known unofficial implementation takes the softmax of each channel's product and
        lets zeros from beyond the border take part; this follows the paper. With a stride the
        answer is averaged over stride x stride, as the paper does for its strided layers.

    Args:
        kernel: k, odd
        heads: M (None: as many up to 8 as divide the channels and leave each a row and a column)
        stride: 1, or the factor by which the answer is averaged down
    """

    role: ClassVar[Role] = "conv"
    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    structure: ClassVar[Structure] = "banded"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel: int = 7,
        heads: int | None = None,
        stride: int = 1,
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.ndim = check_ndim(ndim)
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"got kernel={kernel}, expected an odd number")
        if stride < 1:
            raise InputError(f"got stride={stride}, expected at least 1")
        outside = out_channels or channels
        self.kernel, self.stride = kernel, stride
        self.n_heads = heads_of(outside, heads, least=ndim)
        self.query, self.key, self.value = (
            line(channels, outside, ndim, bias=False) for _ in range(3)
        )
        d = outside // self.n_heads
        shares = [d // ndim + (axis < d % ndim) for axis in range(ndim)]
        self.relative = nn.ParameterList(torch.randn(kernel, s) * d**-0.5 for s in shares if s)

    @property
    def reach(self) -> int:
        return self.kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *grid) to (B, C_out, *grid / stride)."""
        q, k, v = self._parts(x)
        if self.probe is not None:
            terms = {"relative": self.table()}
            show(self.probe, self._hood(), q, k, 1.0, extra=self._extra, **terms)
        y = self._hood().mix(q, k, v, 1.0, self.table()).flatten(1, 2)
        return y if self.stride == 1 else POOL[self.ndim](y, self.stride, ceil_mode=True)

    def table(self) -> Tensor:
        """r of all neighbours, row-major: (k^axes, d)."""
        steps = torch.tensor(self._hood().offsets(self.ndim), device=self.relative[0].device)
        return self._relative(steps)

    def _relative(self, steps: Tensor) -> Tensor:
        """r (n, d) of steps (n, axes)."""
        place = steps + self.reach
        parts = [t[place[:, axis]] for axis, t in enumerate(self.relative)]
        return torch.cat(parts, 1)

    def _extra(self, q: Tensor, k: Tensor, steps: Tensor) -> Tensor:
        return torch.einsum("bmd,nd->bmn", q, self._relative(steps))

    def _hood(self) -> Square:
        return Square(self.kernel)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (dealt(f(x), self.n_heads) for f in (self.query, self.key, self.value))
        return q, k, v

    def operator(self, *inputs: Tensor) -> Tensor:
        q, k, _ = self._parts(inputs[0])
        return self._hood().materialise(q, k, 1.0, self._extra)

    def values(self, *inputs: Tensor) -> Tensor:
        return self._parts(inputs[0])[2].flatten(3)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, heads={self.n_heads}, stride={self.stride}"
