"""A volume through a 3D network in overlapping windows, joined with Gaussian weights.

The windows, their weights and so the answer are those of MONAI's ``sliding_window_inference`` with
``mode="gaussian"``, but no volume of logits is ever held: all windows that begin at the same slice
are a *layer* of windows, and of a few layers the weighted sums are kept. A slice is finished from
the layers that cover it, in whichever order slices are asked for. Where a volume is smaller than a
window, the window is made smaller (MONAI fills the volume up).

Legend: C = channels or classes, D, H, W = working voxels, Z, Y, X = those of the image.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from itertools import product
from typing import Any

import torch

from napari_attnseg.engine.preprocess import resize
from napari_attnseg.settings import PATCH as PATCH

OVERLAP = 0.25
"""Share of a window's side that it has in common with the next, at least (MONAI's default)."""
SIGMA = 0.125
"""Width of the Gaussian weight as a share of the window's side (MONAI's default)."""
LEAST_WEIGHT = 1e-3
"""At the corners of a window, as MONAI's."""
LAYER_BYTES = 384 << 20
"""Weighted sums that are kept, if this is room for more than two layers."""
Size = tuple[int, int, int]
Net = Callable[[torch.Tensor], torch.Tensor]
"""Logits (1, C, d, h, w) of a window (1, C, d, h, w), both on the CPU."""


def starts(length: int, side: int) -> list[int]:
    """First voxels of the windows along an axis; the last one ends where the axis ends."""
    if side >= length:
        return [0]
    step = max(1, int(side * (1 - OVERLAP)))
    return [*range(0, length - side, step), length - side]


def window_weights(window: Size) -> torch.Tensor:
    """The weight of every voxel of a window (d, h, w): Gaussian about its middle."""
    weights = torch.ones(())
    for side in window:
        at = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (at / (SIGMA * side)) ** 2)
    return weights.clamp(min=max(float(weights.min()), LEAST_WEIGHT))


def between(index: int, here: int, there: int) -> tuple[int, int, float]:
    """Where plane ``index`` of ``here`` planes lies among ``there`` planes over the same depth: the
    planes before and behind it, and the share of the second (linear, planes as areas)."""
    at = min(max((index + 0.5) * there / here - 0.5, 0.0), there - 1.0)
    first = int(at)
    return first, min(first + 1, there - 1), at - first


class Windows:
    """Logits of the slices of one volume.

    ``shape``: (Z, Y, X) of the image, ``working``: (D, H, W) at which the network sees it,
    ``patch``: sides of a window. ``plane(z)``: slice z as (1, C, H, W), normalised, at working
    size, z in the standing of the network.
    """

    def __init__(
        self, shape: Size, working: Size, patch: Size, plane: Callable[[int], torch.Tensor]
    ) -> None:
        self.shape, self.working = shape, working
        self.window: Size = tuple(min(p, n) for p, n in zip(patch, working, strict=True))  # type: ignore[assignment]
        self._plane = plane
        tops, *across = (starts(n, side) for n, side in zip(working, self.window, strict=True))
        self.layers = tops
        self._starts = (tops, *across)
        self._across = list(product(*across))
        self._weights = window_weights(self.window)
        self._total: torch.Tensor | None = None
        self._sums: OrderedDict[tuple[Hashable, int], torch.Tensor] = OrderedDict()

    @property
    def count(self) -> int:
        """Windows of the whole volume."""
        return len(self.layers) * len(self._across)

    @property
    def note(self) -> str:
        """What the person should know of it; empty where one window holds the volume."""
        if self.count == 1:
            return ""
        sides = " x ".join(map(str, self.window))
        return (
            f"a 3D model: the volume passes through it in {self.count} windows of {sides} voxels; "
            f"the slice that is looked at comes after the first {len(self._across)} to "
            f"{2 * len(self._across)} of them"
        )

    def covering(self, z: int) -> list[int]:
        """Numbers of the layers that decide slice ``z`` of the image."""
        planes = between(z, self.shape[0], self.working[0])[:2]
        depth = self.window[0]
        return [
            i for i, top in enumerate(self.layers) if any(top <= p < top + depth for p in planes)
        ]

    def missing(self, key: Hashable, z: int) -> int:
        """Windows that must be computed before slice ``z`` has its answer; ``key`` tells values of
        the network apart."""
        layers = sum((key, i) not in self._sums for i in self.covering(z))
        return layers * len(self._across)

    def logits(self, key: Hashable, z: int, net: Net) -> Generator[None, None, torch.Tensor]:
        """Logits (C, Y, X) of slice ``z``; pauses between two windows."""
        wanted = self.covering(z)
        held: dict[int, torch.Tensor] = {}  # others may ask in between and push layers out
        for i in wanted:
            if (key, i) not in self._sums:
                yield from self._layer(key, i, net, {(key, j) for j in wanted})
            self._sums.move_to_end((key, i))
            held[i] = self._sums[(key, i)]
        first, second, share = between(z, self.shape[0], self.working[0])
        found = self._joined(held, first)
        if share > 0:
            found = torch.lerp(found, self._joined(held, second), share)
        return resize(found[None], self.shape[1:], antialias=False)[0]

    def nearest(self, at: tuple[float, ...]) -> Size:
        """First voxel of the window that weighs most in the answer at working position ``at``: the
        one whose middle is nearest."""
        top, row, column = (
            min(firsts, key=lambda first: abs(first + side / 2 - centre))
            for firsts, side, centre in zip(self._starts, self.window, at, strict=True)
        )
        return top, row, column

    def pixels(self, first: Size) -> torch.Tensor:
        """What the network sees of the window that begins at ``first``: (1, C, d, h, w)."""
        rows, columns = (slice(a, a + n) for a, n in zip(first[1:], self.window[1:], strict=True))
        return self._slab(first[0], rows, columns)

    def clear(self) -> None:
        """Forget what was computed."""
        self._sums.clear()

    # -- inside ----------------------------------------------------------------------------------

    def _layer(
        self, key: Hashable, number: int, net: Net, keep: set[Any]
    ) -> Generator[None, None, None]:
        """Compute and keep the weighted sum (C, d, H, W) of one layer."""
        slab = self._slab(self.layers[number])
        total: torch.Tensor | None = None
        for top, left in self._across:
            part = (..., slice(top, top + self.window[1]), slice(left, left + self.window[2]))
            logits = net(slab[part].contiguous())[0].float()
            if total is None:
                self._make_room(slab.shape, len(logits), keep)
                total = torch.zeros(len(logits), *slab.shape[2:])
            total[part] += logits * self._weights
            yield
        assert total is not None
        self._sums[(key, number)] = total

    def _slab(
        self, top: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """Planes ``top`` and on, (1, C, d, H, W): one layer's share of the volume, or these rows
        and columns of it."""
        slab: torch.Tensor | None = None
        for i in range(self.window[0]):
            plane = self._working_plane(top + i)[..., rows, columns]
            if slab is None:
                slab = torch.empty(1, plane.shape[1], self.window[0], *plane.shape[2:])
            slab[:, :, i] = plane
        assert slab is not None
        return slab

    def _working_plane(self, index: int) -> torch.Tensor:
        first, second, share = between(index, self.working[0], self.shape[0])
        plane = self._plane(first)
        return torch.lerp(plane, self._plane(second), share) if share > 0 else plane

    def _make_room(self, slab: torch.Size, classes: int, keep: set[Any]) -> None:
        """Let the layers go that were unused for longest, but those in ``keep``."""
        each = classes * math.prod(slab[2:]) * 4
        room = max(2, LAYER_BYTES // each) - 1
        for key in [k for k in self._sums if k not in keep]:
            if len(self._sums) <= room:
                return
            del self._sums[key]

    def _joined(self, sums: dict[int, torch.Tensor], plane: int) -> torch.Tensor:
        """Logits (C, H, W) of a working plane from the ``sums`` of all layers over it."""
        logits: torch.Tensor | None = None
        weights = torch.zeros(self.working[1:])
        total = self._across_weights()
        for i, part_sum in sums.items():
            top = self.layers[i]
            if top <= plane < top + self.window[0]:
                part = part_sum[:, plane - top]
                logits = part.clone() if logits is None else logits.add_(part)
                weights += total[plane - top]
        assert logits is not None
        return logits / weights

    def _across_weights(self) -> torch.Tensor:
        """The weights of all windows of one layer, summed: (d, H, W), the same for each layer."""
        if self._total is None:
            self._total = torch.zeros(self.window[0], *self.working[1:])
            for top, left in self._across:
                rows, columns = slice(top, top + self.window[1]), slice(left, left + self.window[2])
                self._total[:, rows, columns] += self._weights
        return self._total
