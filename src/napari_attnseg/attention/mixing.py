"""What queries of one map gather from another, streamed in blocks of queries.

Legend: B batch, N queries, M keys, d key channels, C value channels; tokens lie (B, N, channels).

With scores ``S = Q K^T * scale`` there are three readings of "attention weights"
(PAM-UNet, equations 4 and 5, where sigma is written twice, and its figure 2b, where it is once):

- ``"softmax"``: ``A = W = softmax(S)`` over keys, once
- ``"sigmoid"``: ``A = sigmoid(S)`` and ``W = A / M``; undivided, the answer would grow with M
- ``"double"``: ``A = softmax(S)`` and ``W = softmax(A)``; nearly uniform for many keys, since every
  entry lies within ``[1, e] / (e + M - 1)``

The answer is ``W V``. The regulariser of equation 7 is the variance of all entries of the first
sigma, ``spread = mean (A - mean A)^2``, gathered on the way from the sums of A and of A^2.

The N x M matrix never exists: a block of rows is made, used and overwritten, in the backward pass
as in the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SIGMAS = ("softmax", "sigmoid", "double")
CPU_BLOCK = 2 << 20
"""Bytes of one block of rows on a CPU: it should stay in the cache of one core."""
GPU_BLOCK = 256 << 20
"""Bytes of one block elsewhere: few launches matter more than caches."""

LIBRARY_CHANNELS = 16
"""From so many channels on PyTorch's own attention, which streams on a CPU too, is faster."""


@dataclass(frozen=True)
class Form:
    """Which ``sigma``, the factor of the scores, and the memory of one block of rows (bytes,
    ``None``: by device)."""

    sigma: str = "softmax"
    scale: float = 1.0
    block_bytes: int | None = None

    def weights(self, a: Tensor) -> Tensor:
        """W of rows of A, but for the division by M under ``"sigmoid"``."""
        return torch.softmax(a, -1) if self.sigma == "double" else a

    def share(self, keys: int) -> float:
        """What W is divided by M for, 1 elsewhere."""
        return 1.0 / keys if self.sigma == "sigmoid" else 1.0

    def centre(self, keys: int) -> float:
        """A number near the mean of A, from which deviations are summed: exact for softmax."""
        return 0.5 if self.sigma == "sigmoid" else 1.0 / keys


def mix(q_BNd: Tensor, k_BMd: Tensor, v_BMC: Tensor, form: Form) -> Tensor:
    """``W V``: (B, N, C), differentiable."""
    if _needs_gradient(q_BNd, k_BMd, v_BMC):
        value: Tensor = _Rows.apply(q_BNd, k_BMd, v_BMC, form)[0]
        return value
    alike = q_BNd.shape[-1] == v_BMC.shape[-1] >= LIBRARY_CHANNELS
    if form.sigma == "softmax" and alike and q_BNd.device.type == "cpu":
        q, k, v = (t.contiguous().unsqueeze(1) for t in (q_BNd, k_BMd, v_BMC))
        return F.scaled_dot_product_attention(q, k, v, scale=form.scale).squeeze(1)
    return _stream(q_BNd, k_BMd, v_BMC, form, measured=False)[0]


def mix_and_spread(
    q_BNd: Tensor, k_BMd: Tensor, v_BMC: Tensor, form: Form
) -> tuple[Tensor, Tensor]:
    """``W V`` (B, N, C) and ``spread`` (B,), the variance of A; both differentiable."""
    if _needs_gradient(q_BNd, k_BMd, v_BMC):
        value, spread, _ = _Rows.apply(q_BNd, k_BMd, v_BMC, form)
        return value, spread
    return _stream(q_BNd, k_BMd, v_BMC, form)[:2]


@torch.no_grad()
def received(q_BNd: Tensor, k_BMd: Tensor, form: Form) -> Tensor:
    """Mean over all queries of the weight that each key gets: (B, M); sums to 1, or to the mean
    of A under ``"sigmoid"``."""
    keys = k_BMd.shape[1]
    out = q_BNd.new_zeros(q_BNd.shape[0], keys)
    for items, _, a in _blocks(q_BNd, k_BMd, form):
        out[items] += form.weights(a).sum(1)
    return out * (form.share(keys) / q_BNd.shape[1])


@torch.no_grad()
def row(q_Bd: Tensor, k_BMd: Tensor, form: Form) -> Tensor:
    """W of one query per item: (B, M)."""
    a = _first(torch.einsum("bd,bmd->bm", q_Bd * form.scale, k_BMd), form.sigma)
    return form.weights(a) * form.share(k_BMd.shape[1])


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _first(scores: Tensor, sigma: str, out: Tensor | None = None) -> Tensor:
    """The first sigma over the last axis."""
    if sigma == "sigmoid":
        return torch.sigmoid(scores, out=out)
    return torch.softmax(scores, -1, out=out)


def _blocks(q: Tensor, k: Tensor, form: Form) -> Iterator[tuple[slice, slice, Tensor]]:
    """(items, queries, rows of A) in order; the rows are overwritten by the next block."""
    (batch, n), m = q.shape[:2], k.shape[1]
    default = CPU_BLOCK if q.device.type == "cpu" else GPU_BLOCK
    rows = max(1, (form.block_bytes or default) // (m * q.element_size()))
    group, rows = min(batch, max(1, rows // n)), min(rows, n)
    scores, first = (q.new_empty(group, rows, m) for _ in range(2))
    for b in range(0, batch, group):
        items = slice(b, min(b + group, batch))
        for i in range(0, n, rows):
            part = slice(i, min(i + rows, n))
            place = (slice(0, items.stop - b), slice(0, part.stop - i))
            torch.bmm(q[items, part] * form.scale, k[items].mT, out=scores[place])
            yield items, part, _first(scores[place], form.sigma, first[place])


def _stream(
    q: Tensor, k: Tensor, v: Tensor, form: Form, measured: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, spread and mean of A; the last two are 0 unless ``measured``."""
    (batch, n), m = q.shape[:2], k.shape[1]
    value = q.new_empty(batch, v.shape[-1], n)  # few long rows: the products are faster
    sums, squares = q.new_zeros(2, batch, dtype=torch.float64 if _has_double(q) else q.dtype)
    centre = form.centre(m)
    for items, part, a in _blocks(q, k, form):
        value[items, :, part] = v[items].mT @ form.weights(a).mT
        if measured:
            off = (a - centre).flatten(1)
            sums[items] += off.sum(1)
            squares[items] += off.square_().sum(1)
    shift = sums / (n * m)
    spread = (squares / (n * m) - shift.square()).clamp_(min=0)
    return value.mul_(form.share(m)).mT, spread.to(q.dtype), (shift + centre).to(q.dtype)


def _has_double(like: Tensor) -> bool:
    return like.device.type != "mps"


class _Rows(torch.autograd.Function):
    """:func:`_stream` that remembers only its inputs; A is made again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, spread, mean = _stream(q, k, v, form)
        ctx.save_for_backward(q, k, v, mean)
        ctx.form = form
        ctx.mark_non_differentiable(mean)
        return value, spread, mean

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_value: Tensor, g_spread: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        """dV = W^T g; dW = g V^T; dA = dW through the second sigma + 2 (A - mean A) g_R / NM;
        dS through the first sigma; dQ = dS K, dK = dS^T Q."""
        q, k, v, mean = ctx.saved_tensors
        form: Form = ctx.form
        m = k.shape[1]
        g_value = g_value * form.share(m)
        pull = (2 * g_spread / (q.shape[1] * m))[:, None, None]
        dq, dk, dv = (t.new_zeros(t.mT.shape) for t in (q, k, v))  # few long rows: faster
        for items, part, a in _blocks(q, k, form):
            g = g_value[items, part]
            w = form.weights(a)
            dv[items] += g.mT @ w
            da = g @ v[items].mT
            if form.sigma == "double":
                da = _through_softmax(w, da)
            da.addcmul_(a - mean[items, None, None], pull[items])
            ds = da.mul_(a * (1 - a)) if form.sigma == "sigmoid" else _through_softmax(a, da)
            dq[items, :, part] = k[items].mT @ ds.mT
            dk[items] += q[items, part].mT @ ds
        return dq.mul_(form.scale).mT, dk.mul_(form.scale).mT, dv.mT, None


def _through_softmax(p: Tensor, dp: Tensor) -> Tensor:
    """Gradient before a softmax from the gradient ``dp`` (overwritten) behind it, whose rows are
    ``p``: ``p * (dp - rowsum(p * dp))``."""
    inner = torch.einsum("grm,grm->gr", p, dp).unsqueeze(-1)
    return dp.sub_(inner).mul_(p)
