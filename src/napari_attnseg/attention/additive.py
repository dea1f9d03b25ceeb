"""Additive scores ``w . tanh(q_i + k_j)`` (Bahdanau 2015; Luong 2015, "concat"), in blocks.

Legend: B batch, N queries, M keys, d channels of both, C value channels; tokens (B, N, channels).

``w . tanh(W [h_i; h_j])`` is this with ``q_i = W_1 h_i`` and ``k_j = W_2 h_j``. The tanh stands
between the two, so the scores are no product: N M d tanh have to be computed, a block of queries at
a time, and again for the gradients. That is for small maps: 64x64 positions on 64 channels take
10^9 of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU_BLOCK = 8 << 20
"""Bytes of the tanh of one block on a CPU."""
GPU_BLOCK = 256 << 20
"""Bytes of one block elsewhere."""


def weights(q_BNd: Tensor, k_BMd: Tensor, w_d: Tensor) -> Tensor:
    """``softmax_j(w . tanh(q_i + k_j))``: (B, N, M), all at once."""
    return torch.softmax(torch.tanh(q_BNd[:, :, None] + k_BMd[:, None]) @ w_d, -1)


def mix(
    q_BNd: Tensor, k_BMd: Tensor, v_BMC: Tensor, w_d: Tensor, block_bytes: int | None = None
) -> tuple[Tensor, Tensor]:
    """What the queries gather (B, N, C), and the variance of all weights (B,); differentiable."""
    answers, squares = [], []
    for part in _parts(q_BNd, k_BMd, block_bytes):
        given = (q_BNd[:, part], k_BMd, v_BMC, w_d)
        if torch.is_grad_enabled() and any(t.requires_grad for t in given):
            answer, square = checkpoint(_block, *given, use_reentrant=False)
        else:
            answer, square = _block(*given)
        answers.append(answer)
        squares.append(square)
    n, m = q_BNd.shape[1], k_BMd.shape[1]
    return torch.cat(answers, 1), torch.stack(squares).sum(0) / (n * m)


def _block(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    a = weights(q, k, w)
    return a @ v, (a - 1 / k.shape[1]).square().sum((1, 2))  # rows sum to 1: 1 / M is the mean


@torch.no_grad()
def received(q_BNd: Tensor, k_BMd: Tensor, w_d: Tensor, block_bytes: int | None = None) -> Tensor:
    """Mean over all queries of the weight that each key gets: (B, M); sums to 1."""
    out = k_BMd.new_zeros(k_BMd.shape[:2])
    for part in _parts(q_BNd, k_BMd, block_bytes):
        out += weights(q_BNd[:, part], k_BMd, w_d).sum(1)
    return out / q_BNd.shape[1]


def _parts(q: Tensor, k: Tensor, block_bytes: int | None) -> Iterator[slice]:
    default = CPU_BLOCK if q.device.type == "cpu" else GPU_BLOCK
    rows = max(1, (block_bytes or default) // (k.numel() * q.element_size()))
    for start in range(0, q.shape[1], rows):
        yield slice(start, start + rows)
