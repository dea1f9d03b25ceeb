"""The network that steers a refinement: from image and coarse map to affinity (and attention).

A U-Net over the image and the coarse segmentation (Cheng et al. 2018; Lin et al. 2022). Doubling
is bilinear with a 3x3 convolution after it: a transposed convolution with kernel 2 treats even and
odd rows apart, and these stripes would reach the affinity. Heads are linear, so an affinity may
have either sign and an attention, after its sigmoid, may come down to 0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_attnseg.models.base import pad_to_multiple
from napari_attnseg.models.blocks import ConvNormReLU, TwoConvs, he_start
from napari_attnseg.models.unet import PlainEncoder, UDecoder, plain_channels


class Guidance(nn.Module):
    """``affinity``: channels of the affinity. ``attention``: (iterations, parts) of an attention,
    or ``None``. ``width`` multiplies the 64, 128, ... channels of ``levels`` + 1 grids."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        affinity: int,
        attention: tuple[int, int] | None = None,
        width: float = 0.25,
        levels: int = 3,
    ) -> None:
        super().__init__()
        channels = plain_channels(width, levels)
        self.encoder = PlainEncoder(in_channels + classes, channels)
        ups: list[nn.Module] = [
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                ConvNormReLU(below, own),
            )
            for own, below in pairwise(channels)
        ]
        blocks: list[nn.Module] = [TwoConvs(2 * own, own) for own in channels[:-1]]
        self.decoder = UDecoder(ups, blocks)
        he_start(self)
        self.affinity = nn.Conv2d(channels[0], affinity, 3, padding=1)
        self.attention: nn.Conv2d | None = None
        self.parts = attention
        if attention is not None:
            self.attention = nn.Conv2d(channels[0], attention[0] * attention[1], 3, padding=1)

    def forward(self, image_BCHW: Tensor, coarse_BKHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Affinity (B, channels, H, W) and attention (B, iterations, parts, H, W) in (0, 1).

        ``coarse_BKHW``: the coarse logits, brought to about [-1, 1].
        """
        h, w = image_BCHW.shape[-2:]
        x = pad_to_multiple(torch.cat([image_BCHW, coarse_BKHW], 1), self.encoder.strides[-1])
        *skips, deepest = self.encoder(x)
        y = self.decoder(deepest, tuple(skips))[..., :h, :w]
        if self.attention is None or self.parts is None:
            return self.affinity(y), None
        attention = torch.sigmoid(self.attention(y)).unflatten(1, self.parts)
        return self.affinity(y), attention
