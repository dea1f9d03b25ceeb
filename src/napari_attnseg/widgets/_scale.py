"""Where a threshold lies on a slider: along its value, or along the quantiles of ``step``.

Near-uniform attention has steps of the order of 1/N, a sharp one of the order of 1. A slider
over the value alone is then dead along most of its length; along the quantiles every
millimetre closes the gate for as many cells as the one before.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["linear", "quantile"]


class StepScale:
    """A one-to-one map between thresholds and slider positions in [0, 1].

    ``kind="linear"``: ``position = threshold / upper``, where ``upper`` (at most 1) lies just
    above the largest step. ``kind="quantile"``: position q is the q-th quantile of ``step``
    with a 0 put in front, so 0 closes every cell with a step and 1 closes none.
    """

    def __init__(self, step: ArrayLike = (), kind: Kind = "linear", include: float = 0.0) -> None:
        """``step``: any shape, values in [0, 1]; ``include``: a value that must be reachable."""
        values = np.asarray(step, dtype=np.float64).ravel()
        self.step: NDArray[np.float64] = np.sort(values[np.isfinite(values)])
        self.kind: Kind = kind
        self.upper = _upper(self.step, include)
        self._values, self._positions = _quantile_table(self.step)

    @property
    def is_quantile(self) -> bool:
        """True when positions are quantiles (never before any ``step`` is known)."""
        return self.kind == "quantile" and self._values.size > 1

    def position(self, threshold: ArrayLike) -> NDArray[np.float64]:
        """Slider position in [0, 1]; thresholds beyond the scale lie at its end."""
        t = np.asarray(threshold, dtype=np.float64)
        if self.is_quantile:
            return np.interp(t, self._values, self._positions)
        return np.clip(t / self.upper, 0.0, 1.0)

    def threshold(self, position: float) -> float:
        """The threshold at a slider position; the inverse of :meth:`position`."""
        p = min(max(float(position), 0.0), 1.0)
        if self.is_quantile:
            return float(np.interp(p, self._positions, self._values))
        return p * self.upper

    def over(self, threshold: float) -> int:
        """How many grid cells lie strictly above ``threshold``."""
        return int(self.step.size - np.searchsorted(self.step, threshold, side="right"))

    def quantiles(self, positions: ArrayLike) -> NDArray[np.float64]:
        """The step values at ``positions`` in [0, 1] (zeros before any ``step`` is known)."""
        q = np.asarray(positions, dtype=np.float64)
        if self._values.size < 2:
            return np.zeros_like(q)
        return np.interp(q, self._positions, self._values)

    def histogram(self, bins: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts of ``step`` in equal bins over the linear scale, and the bins' edges."""
        return np.histogram(self.step, bins=bins, range=(0.0, self.upper))


def _upper(step: NDArray[np.float64], include: float) -> float:
    """A round number just above every step, so that the axis does not jump with each slice."""
    if step.size == 0:
        return 1.0
    wanted = 1.05 * max(float(step[-1]), include if include <= 1.0 else 0.0, 1e-6)
    unit = 10.0 ** np.floor(np.log10(wanted))
    nice = next(m * unit for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * unit >= wanted)
    return float(min(1.0, nice))


def _quantile_table(
    step: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct values and the position of each: ties share the mean of their ranks."""
    ranked = np.concatenate([[0.0], step])
    values, first, count = np.unique(ranked, return_index=True, return_counts=True)
    if values.size < 2:
        return values, np.zeros(values.size)
    middle = first + (count - 1) / 2.0
    middle[0], middle[-1] = 0.0, ranked.size - 1
    return values, middle / (ranked.size - 1)
