"""Slow twin of Joint Attention: the paper's unified form as loops over pixels, numpy float64.

Equation 1: ``y_i = sum_m sum_j A_m(x_i, x_j, delta_ij) W_m x_j``. A 3x3 convolution is M = 9 with
A_m = 1 where j = i + k_m (2, 3); self-attention is M = 1 with A_1 = theta(x_i) . phi(x_j) / N (5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weight = Callable[[int, tuple[int, int], tuple[int, int]], float]
"""(m, position i, position j) to A_m."""
OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def unified(x_CHW: Array, weight: Weight, matrices: list[Array]) -> Array:
    """Equation 1 with Omega = all positions; ``matrices``: W_m (n2, n1). (n2, H, W)."""
    _, h, w = x_CHW.shape
    out = np.zeros((matrices[0].shape[0], h, w))
    places = [(y, x) for y in range(h) for x in range(w)]
    for i in places:
        for j in places:
            for m, matrix in enumerate(matrices):
                a = weight(m, i, j)
                if a:
                    out[:, i[0], i[1]] += a * (matrix @ x_CHW[:, j[0], j[1]])
    return out


def conv3x3(x_CHW: Array, kernel: Array, bias: Array) -> Array:
    """Equations 2 and 3; ``kernel`` (n2, n1, 3, 3)."""

    def at_offset(m: int, i: tuple[int, int], j: tuple[int, int]) -> float:
        return float((j[0] - i[0], j[1] - i[1]) == OFFSETS[m])

    matrices = [kernel[:, :, dy + 1, dx + 1] for dy, dx in OFFSETS]
    return unified(x_CHW, at_offset, matrices) + bias[:, None, None]


def pixelwise(x_CHW: Array, p: Mapping[str, Array], name: str) -> Array:
    """A 1x1 convolution, pixel by pixel."""
    matrix = p[f"{name}.weight"]
    matrix = matrix.reshape(matrix.shape[:2])
    out = np.zeros((matrix.shape[0], *x_CHW.shape[1:]))
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            out[:, y, x] = matrix @ x_CHW[:, y, x] + p[f"{name}.bias"]
    return out


def matrix_of(x_CHW: Array, p: Mapping[str, Array]) -> Array:
    """A_1 (N, N): theta(x_i) . phi(x_j) / N, entry by entry."""
    theta, phi = (
        pixelwise(x_CHW, p, f"a.{n}").reshape(-1, x_CHW[0].size) for n in ("theta", "phi")
    )
    n = theta.shape[1]
    return np.array([[theta[:, i] @ phi[:, j] / n for j in range(n)] for i in range(n)])


def nonlocal_(x_CHW: Array, p: Mapping[str, Array]) -> Array:
    """``A(x) = W_z NL(x)`` by the unified form, one head."""
    a, width = matrix_of(x_CHW, p), x_CHW.shape[2]
    g = pixelwise(x_CHW, p, "a.g")

    def attention(m: int, i: tuple[int, int], j: tuple[int, int]) -> float:
        return float(a[i[0] * width + i[1], j[0] * width + j[1]])

    return pixelwise(unified(g, attention, [np.eye(len(g))]), p, "a.w_z")


def pointwise_map(x_CHW: Array, p: Mapping[str, Array], sigma: bool = True) -> Array:
    """``w`` (1, H, W)."""
    w = conv3x3(x_CHW, p["w.conv.weight"], p["w.conv.bias"])
    return 1 / (1 + np.exp(-w)) if sigma else w


def joint(
    x: Array, p: Mapping[str, Array], structure: int, merge: str = "gate", sigma: bool = True
) -> Array:
    """The nine structures, step by step: which order, and where the shortcut joins."""
    inside, outside = structure in (1, 4, 7), structure in (2, 5, 8)
    if structure <= 3 and merge == "sum":
        sa, pwa = nonlocal_(x, p), x * pointwise_map(x, p, sigma)
        shortcuts = {1: 0, 2: 1, 3: 2}[structure]
        return sa + pwa + shortcuts * x
    if structure <= 6:
        features = nonlocal_(x, p)
        if not outside:
            features = features + x
        w = pointwise_map(x if structure <= 3 else features, p, sigma)
        product = features * w
        return product if inside else product + (x if outside else features)
    features = x * pointwise_map(x, p, sigma)
    if not (inside or outside):
        features = features + x
    return nonlocal_(features, p) + (x if outside else features)
