"""Guidance of single slices as guidance of a volume.

A guidance network that has seen slices one by one says how a pixel goes with its neighbours in
the slice, and nothing about the slices beside it. The weights across slices are made here by the
rule that a person would use: two pixels straight above each other go together as far as they look
alike. They are positive, so across slices an answer is only ever smoothed, never sharpened.

Legend: Z = slices, C = channels of the image, O = neighbours, K = maps, P = parts of attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.neighbours import rings

ALIKE = 0.1
"""Difference of two pixels (images go from 0 to 1) at which they hardly go together."""


def across_slices(
    affinity_ZOHW: Tensor,
    image_ZCHW: Tensor,
    across: float = 0.5,
    alike: float = ALIKE,
    maps: int = 1,
) -> Tensor:
    """Affinity (1, O + 2, Z, H, W) for a refinement with ``ndim=3, straight=True``.

    ``affinity_ZOHW``: that of every slice, raw, ring by ring. ``across``: what both neighbours
    across slices weigh together, as a share of the inner ring's weights, where they look the same;
    0 leaves the slices apart. With d the difference of two pixels (mean square over channels) it
    falls as ``exp(-d^2 / (2 alike^2))``. ``maps``: of so many maps each has its own affinity (map
    by map). One slice alone is refined as in 2D.
    """
    if not across >= 0:
        raise InputError(f"got across={across}, expected 0 or more (1: as much as the slice's own)")
    if not alike > 0:
        raise InputError(f"got alike={alike}, expected a number above 0")
    if image_ZCHW.shape[0] != affinity_ZOHW.shape[0]:
        raise InputError(
            f"got {image_ZCHW.shape[0]} slices of the image and {affinity_ZOHW.shape[0]} of the "
            "affinity, expected as many"
        )
    square = (image_ZCHW[1:] - image_ZCHW[:-1]).square().mean(1)
    same = torch.exp(square / (-2 * alike**2)) * (across / 2)
    return torch.cat([_with_neighbours(part, same) for part in affinity_ZOHW.chunk(maps, 1)])[None]


def _with_neighbours(affinity_ZOHW: Tensor, same_ZHW: Tensor) -> Tensor:
    """(O + 2, Z, H, W): the pixel below, ring 1, the pixel above, rings 2, 3; ``same``: of every
    slice but the last with the one above it."""
    inner = len(rings(3)[0])
    own = affinity_ZOHW[:, :inner].abs().sum(1)
    below, above = torch.zeros_like(own), torch.zeros_like(own)
    below[1:], above[:-1] = own[1:] * same_ZHW, own[:-1] * same_ZHW
    flat = affinity_ZOHW.transpose(0, 1)
    return torch.cat([below[None], flat[:inner], above[None], flat[inner:]])


def as_volume(slices_ZKHW: Tensor) -> Tensor:
    """Maps of slices (Z, K, H, W) as maps of a volume (1, K, Z, H, W)."""
    return slices_ZKHW.transpose(0, 1)[None]


def as_slices(volume_KDHW: Tensor) -> Tensor:
    """The inverse of :func:`as_volume`."""
    return volume_KDHW[0].transpose(0, 1)


def attention_of(slices_ZTPHW: Tensor) -> Tensor:
    """Attention of slices (Z, T, P, H, W) as that of a volume (1, T, P, Z, H, W)."""
    return slices_ZTPHW.permute(1, 2, 0, 3, 4)[None]
