"""Affinities in the order of the released CSPN code, and back.

The paper indexes a weight by the pixel that receives (destination); the released code pads so
that the weight for neighbour p + o_k is read at that neighbour, from the channel of the opposite
offset (source). Both hold the same numbers elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_attnseg.refinement.neighbours import rings, windows


def to_destination(source_BKN: Tensor, kernel: int = 3) -> Tensor:
    """Source-indexed affinity (B, K, N) as destination-indexed: channel of offset o at p is the
    source's channel of -o at p + o; 0 where p + o lies outside.

    The map is its own inverse for all weights that are ever read.
    """
    ndim = source_BKN.ndim - 2
    offsets = [o for ring in rings(kernel, ndim) for o in ring]
    out = torch.zeros_like(source_BKN)
    for k, offset in enumerate(offsets):
        here, there = windows(offset, tuple(source_BKN.shape[2:]))
        opposite = offsets.index(tuple(-o for o in offset))
        out[:, k : k + 1][here] = source_BKN[:, opposite : opposite + 1][there]
    return out


to_source = to_destination
"""Destination-indexed affinity as source-indexed (the same exchange)."""
