"""Slow twin of Smooth Attention: numpy loops, one equation per line, float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def conv1x1(x_CHW: Array, weight: Array, bias: Array) -> Array:
    """Tokens (N, D) of a 1x1 convolution, pixel by pixel."""
    c, h, w = x_CHW.shape
    out = np.zeros((h * w, weight.shape[0]))
    for y in range(h):
        for x in range(w):
            out[y * w + x] = weight.reshape(-1, c) @ x_CHW[:, y, x] + bias
    return out


def attention(q: Array, k: Array, scale: float) -> Array:
    """A (N, N), row by row (eq. 4)."""
    rows = []
    for query in q:
        scores = np.array([scale * float(query @ key) for key in k])
        e = np.exp(scores - scores.max())
        rows.append(e / e.sum())
    return np.array(rows)


def clamped(y: int, x: int, h: int, w: int) -> list[int]:
    """The 8 neighbours under replicate padding, as row numbers of A."""
    out = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy, dx) != (0, 0):
                out.append(min(max(y + dy, 0), h - 1) * w + min(max(x + dx, 0), w - 1))
    return out


def steps(a: Array, h: int, w: int) -> Array:
    """D (H, W) (eq. 5 and 6)."""
    out = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            for j in clamped(y, x, h, w):
                out[y, x] = max(out[y, x], float(np.max(np.abs(a[j] - a[y * w + x]))))
    return out


def smoothed(a: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """A' of the authors' code: masked rows become the mean of their neighbours' rows."""
    h, w = mask.shape
    out = a.copy()
    for y in range(h):
        for x in range(w):
            if mask[y, x]:
                out[y * w + x] = np.mean([a[j] for j in clamped(y, x, h, w)], axis=0)
    return out


def output(
    x_CHW: Array, a: Array, v_NC: Array, mask: npt.NDArray[np.bool_], gamma: float, rule: str
) -> Array:
    """The module's output (C, H, W) under one rule."""
    _, h, w = x_CHW.shape
    rows = smoothed(a, mask) if rule == "authors" else a
    out = np.zeros_like(x_CHW)
    for y in range(h):
        for x in range(w):
            i, m = y * w + x, float(mask[y, x])
            value = sum(rows[i, k] * v_NC[k] for k in range(h * w))
            if rule == "paper":
                out[:, y, x] = gamma * value + (1 - gamma * m) * x_CHW[:, y, x]
            elif rule == "authors":
                out[:, y, x] = gamma * value + x_CHW[:, y, x]
            else:
                out[:, y, x] = gamma * (1 - m) * value + x_CHW[:, y, x]
    return out
