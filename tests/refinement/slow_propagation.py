"""CSPN and DySPN as loops over pixels, written from the formulas alone."""

from __future__ import annotations

from itertools import product

import numpy as np


def ring_offsets(radius: int) -> list[tuple[int, int]]:
    reach = range(-radius, radius + 1)
    return [(i, j) for i in reach for j in reach if max(abs(i), abs(j)) == radius]


def inside(i: int, j: int, shape: tuple[int, int]) -> bool:
    return 0 <= i < shape[0] and 0 <= j < shape[1]


def slow_cspn(
    h0: np.ndarray, a: np.ndarray, steps: int, norm: str = "8sum", kernel: int = 3
) -> np.ndarray:
    """h0 (B, K, H, W), a (B, offsets, H, W) -> the last iterate."""
    offsets = [o for r in range(1, kernel // 2 + 1) for o in ring_offsets(r)]
    h, shape = h0.astype(float), h0.shape[2:]
    for _ in range(steps):
        new = np.zeros_like(h)
        for b, i, j in product(range(h.shape[0]), range(shape[0]), range(shape[1])):
            near = [(k, i + o[0], j + o[1]) for k, o in enumerate(offsets)]
            near = [(k, y, x) for k, y, x in near if inside(y, x, shape)]
            raw = [abs(a[b, k, i, j]) if norm == "8sum_abs" else a[b, k, i, j] for k, _, _ in near]
            size = sum(abs(v) for v in raw) + 1e-8
            weights = [v / size for v in raw]
            for c in range(h.shape[1]):
                moved = sum(w * h[b, c, y, x] for w, (_, y, x) in zip(weights, near, strict=True))
                new[b, c, i, j] = moved + (1 - sum(weights)) * h0[b, c, i, j]
        h = new
    return h


def slow_dyspn(h0: np.ndarray, a: np.ndarray, pi: np.ndarray, eps: float = 1e-4) -> np.ndarray:
    """h0 (B, K, H, W), a (B, 48, H, W), pi (B, T, 4, H, W) -> the last iterate."""
    offsets = [(r, o) for r in (1, 2, 3) for o in ring_offsets(r)]
    h, shape = h0.astype(float), h0.shape[2:]
    for t in range(pi.shape[1]):
        new = np.zeros_like(h)
        for b, i, j in product(range(h.shape[0]), range(shape[0]), range(shape[1])):
            p = pi[b, t, :, i, j]
            signed, size = float(p[0]), float(p[0]) + eps
            moved = p[0] * h[b, :, i, j]
            for k, (r, o) in enumerate(offsets):
                y, x = i + o[0], j + o[1]
                if not inside(y, x, shape):
                    continue
                signed += p[r] * a[b, k, i, j]
                size += p[r] * abs(a[b, k, i, j])
                moved = moved + p[r] * a[b, k, i, j] * h[b, :, y, x]
            new[b, :, i, j] = (moved + (size - signed) * h0[b, :, i, j]) / size
        h = new
    return h
