"""What an encoder is: one image in, feature maps of falling resolution out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from napari_attnseg.settings import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Published:
    """Where an encoder's ImageNet weights are and what they expect.

    ``mean`` and ``std``: per colour, of images in [0, 1]; training puts them into the card's
    preprocessing (``settings.with_encoder_normalisation``). ``first``: the tensor that meets the
    colours. ``package``: an ordinary Python package that holds them, ``extra`` of this one that
    brings it. ``hub``: repository and file on huggingface.co.
    """

    first: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    package: str = ""
    extra: str = "hub"
    hub: tuple[str, str] | None = None


class Encoder(nn.Module):
    """(B, in_channels, H, W) to features (B, channels[i], H / strides[i], W / strides[i]), finest
    first; H and W must be multiples of the last stride."""

    title: str = ""
    """For people."""
    published: ClassVar[Published | None] = None
    """``None`` where nobody publishes weights."""
    width: float = 1.0
    """All channels are multiplied by it; published weights fit 1.0 alone."""
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict under the names and shapes of this encoder."""
        return state
