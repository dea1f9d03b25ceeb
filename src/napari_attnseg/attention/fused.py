"""Softmax attention over tokens through the library's fused kernels, never off their fast path.

``y_i = sum_j softmax_j(q_i . k_j * scale + bias_ij) v_j``. The kernels stream the scores in blocks
only for contiguous tensors (batch, heads, positions, channels) with as many key as value channels;
anything else falls back to the whole matrix of scores, four times slower and N x N large. So all
inputs are made contiguous here, and where key and value channels differ on a large map, the
streamed form of ``mixing`` takes over.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.attention import mixing

SMALL_BYTES = 8 << 20
"""Scores that take no more than this may be held as a whole."""


def attend(
    q_BMNd: Tensor,
    k_BMKd: Tensor,
    v_BMKe: Tensor,
    scale: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """(B, M, N, e), differentiable. ``bias`` broadcasts to (B, M, N, K): added to the scores, or
    bool, false where a key is not seen."""
    d, e = q_BMNd.shape[-1], v_BMKe.shape[-1]
    (batch, heads, n), m = q_BMNd.shape[:3], k_BMKd.shape[2]
    whole = batch * heads * n * m * q_BMNd.element_size()
    if bias is None and d != e and whole > SMALL_BYTES:
        return _streamed(q_BMNd, k_BMKd, v_BMKe, scale)
    q, k, v = (_in_order(t) for t in (q_BMNd, k_BMKd, v_BMKe))
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _in_order(x: Tensor) -> Tensor:
    """Contiguous in every stride: one of a single channel passes for contiguous as it lies, but
    the kernel looks at the stride of its last axis and falls back."""
    x = x.contiguous()
    return x if x.stride(-1) == 1 else x.clone(memory_format=torch.contiguous_format)


def _streamed(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Heads are items of a batch; in full precision, because small weights of many keys are lost
    in half."""
    with full_precision(q):
        wide = torch.promote_types(q.dtype, torch.float32)
        q_BNd, k_BNd, v_BNe = (t.flatten(0, 1).to(wide) for t in (q, k, v))
        out = mixing.mix(q_BNd, k_BNd, v_BNe, mixing.Form("softmax", scale))
    return out.to(v.dtype).unflatten(0, q.shape[:2])


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """No autocast in the block."""
    if like.device.type == "meta":
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
