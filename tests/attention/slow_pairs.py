"""Slow twins of the pairwise attentions: loops over positions in numpy, from the formulas alone.

Maps are (C, H, W); W of a projection (out, in), b its bias. Nothing here is shared with the
package.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

Seen = Callable[[int, int, int, int], bool]
"""Whether position (y, x) sees (yy, xx)."""
Extra = Callable[[np.ndarray, np.ndarray, int, int], float]
"""(q of one head, k of one head, dy, dx) to what is added to the score."""


def project(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """A 1x1 convolution, pixel by pixel."""
    weight = weight.reshape(weight.shape[0], -1)
    out = np.zeros((weight.shape[0], *x.shape[1:]))
    for y, i in product(range(x.shape[1]), range(x.shape[2])):
        out[:, y, i] = weight @ x[:, y, i] + (0 if bias is None else bias)
    return out


def softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max())
    return e / e.sum()


def row(
    q: np.ndarray,
    k: np.ndarray,
    at: tuple[int, int],
    seen: Seen,
    scale: float = 1.0,
    extra: Extra | None = None,
) -> np.ndarray:
    """Attention of one position of one head: (H, W) of k's grid, 0 where it does not look."""
    y, x = at
    places = [p for p in product(*map(range, k.shape[1:])) if seen(y, x, *p)]
    scores = []
    for yy, xx in places:
        score = scale * float(q[:, y, x] @ k[:, yy, xx])
        if extra is not None:
            score += extra(q[:, y, x], k[:, yy, xx], yy - y, xx - x)
        scores.append(score)
    out = np.zeros(k.shape[1:])
    for place, weight in zip(places, softmax(np.array(scores)), strict=True):
        out[place] = weight
    return out


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    seen: Seen,
    heads: int = 1,
    scale: float | None = None,
    extra: Extra | None = None,
) -> np.ndarray:
    """All heads side by side: (channels of v, H, W of q). ``scale`` None: 1 / sqrt(d)."""
    d, e = q.shape[0] // heads, v.shape[0] // heads
    scale = d**-0.5 if scale is None else scale
    out = np.zeros((v.shape[0], *q.shape[1:]))
    for m in range(heads):
        qm, km, vm = q[m * d : m * d + d], k[m * d : m * d + d], v[m * e : m * e + e]
        for at in product(*map(range, q.shape[1:])):
            a = row(qm, km, at, seen, scale, extra if extra is None else _head(extra, m))
            for place in product(*map(range, k.shape[1:])):
                out[m * e : m * e + e, at[0], at[1]] += a[place] * vm[:, place[0], place[1]]
    return out


def _head(extra: Extra, m: int) -> Extra:
    return lambda q, k, dy, dx: extra(q, k, dy, dx, m)  # type: ignore[call-arg]


def everywhere(y: int, x: int, yy: int, xx: int) -> bool:
    return True


def column(y: int, x: int, yy: int, xx: int) -> bool:
    return x == xx


def line(y: int, x: int, yy: int, xx: int) -> bool:
    return y == yy


def cross(y: int, x: int, yy: int, xx: int) -> bool:
    return y == yy or x == xx


def block(size: int, shift: int = 0) -> Seen:
    """The same block, where the first one ends after ``shift`` positions."""
    return lambda y, x, yy, xx: (
        (y - shift) // size == (yy - shift) // size and (x - shift) // size == (xx - shift) // size
    )


def lattice(size: int) -> Seen:
    return lambda y, x, yy, xx: (y - yy) % size == 0 and (x - xx) % size == 0


def square(kernel: int) -> Seen:
    r = kernel // 2
    return lambda y, x, yy, xx: abs(y - yy) <= r and abs(x - xx) <= r


def normed(x: np.ndarray, layers: dict[str, np.ndarray], relu: bool = True) -> np.ndarray:
    """1x1 convolution, batch normalisation with running statistics, ReLU."""
    y = project(x, layers["0.weight"])
    return normalised(y, {n[2:]: p for n, p in layers.items() if n.startswith("1.")}, relu)


def normalised(y: np.ndarray, p: dict[str, np.ndarray], relu: bool = True) -> np.ndarray:
    shape = (-1, *(1,) * (y.ndim - 1))
    y = (y - p["running_mean"].reshape(shape)) / np.sqrt(p["running_var"].reshape(shape) + 1e-5)
    y = y * p["weight"].reshape(shape) + p["bias"].reshape(shape)
    return np.maximum(y, 0) if relu else y


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Over the channels of every pixel."""
    out = np.zeros_like(x)
    for y, i in product(range(x.shape[1]), range(x.shape[2])):
        t = x[:, y, i]
        out[:, y, i] = (t - t.mean()) / np.sqrt(t.var() + 1e-5) * weight + bias
    return out


def under(prefix: str, p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries below ``prefix.``, with the rest of their names."""
    return {n[len(prefix) + 1 :]: v for n, v in p.items() if n.startswith(f"{prefix}.")}
