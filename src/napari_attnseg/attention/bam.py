"""BAM: channels and positions side by side (Park et al., BMVC 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import register_attention
from napari_attnseg.attention.layers import Gating, Norm, conv, mean, over, squeezed
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError

MERGES = ("sum", "product")


@register_attention(
    "bam",
    id="A11",
    title="BAM",
    paper="Park, Woo, Lee & Kweon: BAM: Bottleneck Attention Module (BMVC 2018)",
    kinds=("channel", "spatial"),
    ndim=(2, 3),
)
class BAM(Gating):
    """A score per channel and a score per position are added and strengthen the features.

    Formula:
        M_c = W2 relu(norm(W1 mean x))
        M_s = conv1(conv_d(conv_d(conv1 x))), normalised with ReLU between
        y = x * (1 + sigmoid(M_c + M_s))
    Symbols:
        x, y: features (B, C, N)
        M_c: (B, C); W1: C to C / r, W2 back
        M_s: (B, 1, N); conv1: 1 x 1, C to C / r and to 1; conv_d: 3 x 3 with dilation d
    Cost:
        N (C^2 / r + 18 (C / r)^2) multiply-adds
    Notes:
        The gain lies strictly between 1 and 2: features are strengthened, never taken away. The
        paper adds the two scores, its published code multiplies them (merge="product"). Means are
        taken over the whole map, whatever its shape (the code pools squares). Convolutions before
        a normalisation have no bias.
    Args:
        reduction: r
        dilation: d
        merge: "sum" as the paper, "product" as its code
    """

    maps: ClassVar[tuple[str, ...]] = ("channels", "positions")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"merge": MERGES}

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        dilation: int = 4,
        merge: str = "sum",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        if dilation < 1:
            raise InputError(f"got dilation={dilation}, expected at least 1")
        self.merge = str(self.checked("merge", merge))
        c = squeezed(channels, reduction)
        self.channel = nn.Sequential(
            nn.Linear(channels, c, bias=False), Norm(c), nn.ReLU(), nn.Linear(c, channels)
        )
        layers: list[nn.Module] = [conv(ndim, channels, c, bias=False), Norm(c), nn.ReLU()]
        for _ in range(2):
            wide = conv(ndim, c, c, 3, dilation=dilation, bias=False)
            layers += [wide, Norm(c), nn.ReLU()]
        self.spatial = nn.Sequential(*layers, conv(ndim, c, 1))

    def weights(self, x_BCN: Tensor) -> Tensor:
        m_c, m_s = over(self.channel(mean(x_BCN)), x_BCN), self.spatial(x_BCN)
        gate = torch.sigmoid(m_c + m_s if self.merge == "sum" else m_c * m_s)
        if self.probe is not None:
            self.probe.note("channels", mean(gate), "channel")
            self.probe.note("positions", gate, "spatial", Geometry(gate.ndim - 2))
        return 1 + gate
