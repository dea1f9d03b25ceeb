"""Labelled slices: what they are, how raw pixels and label ids become what a network learns from.

An example is a slice in the standing the network always sees: an image (C, Y, X) in network units
and a target (Y, X), where ``IGNORE`` marks unlabelled pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.preprocess import (
    Limits,
    intensity_limits,
    normalize,
    resize,
    working_size,
)
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing, TrainSettings

if TYPE_CHECKING:
    from napari_attnseg.io.volume import Volume

Flips = tuple[bool, bool, bool]


@dataclass(frozen=True, order=True)
class Slice:
    """One labelled slice: which pair of files, and its z in view order."""

    pair: int
    z: int


@dataclass(frozen=True)
class Example:
    """``image``: float32 (C, h, w) in network units; ``target``: int16 (Y, X), upright."""

    image: torch.Tensor
    target: np.ndarray


@dataclass(frozen=True)
class Pair:
    """A decoded pair: raw pixels and target ids in view order, not flipped."""

    view: np.ndarray
    target: np.ndarray
    rgb: bool
    flips: Flips
    spacing_mm: tuple[float, ...]
    limits: Limits
    oriented: bool


def pair_of(image: Volume, target: np.ndarray, pre: Preprocessing) -> Pair:
    """An image and its target ids (Z, Y, X) as a pair; intensity limits are those of the image."""
    return Pair(
        image.view,
        target,
        image.rgb,
        image.flips,
        tuple(image.spacing_mm or ()),
        intensity_limits(image.view, image.rgb, pre),
        image.geometry is not None,
    )


def upright(plane: np.ndarray, flips: Flips) -> np.ndarray:
    """A slice (Y, X[, C]) turned to stand as in training: row down = P, column right = L.

    Its own inverse. A view, no copy; ``flips[0]`` (the order of slices) does not matter here.
    """
    rows = slice(None, None, -1) if flips[1] else slice(None)
    columns = slice(None, None, -1) if flips[2] else slice(None)
    return plane[rows, columns]


def network_input(pair: Pair, z: int, pre: Preprocessing) -> torch.Tensor:
    """Slice ``z`` as the network sees it: float32 (C, h, w), upright, at the working size."""
    pixels = normalize(upright(pair.view[z], pair.flips), pair.rgb, pre, pair.limits)
    size = working_size(pixels.shape[-2:], pre, pair.spacing_mm)
    return resize(torch.from_numpy(pixels)[None], size, antialias=True)[0]


def to_target(ids: np.ndarray, settings: TrainSettings, name: str) -> np.ndarray:
    """Label ids as painted or stored to class targets, int16 of the same shape.

    Sparse strokes: 0 is unlabelled, 1 background, 2 the first class. Otherwise ids are classes;
    with a single foreground class every id above 0 belongs to it (instance ids, 0/255 masks).

    Raises:
        InputError: an id for which there is no class.
    """
    classes = len(settings.class_names)
    if settings.sparse:
        target, largest = np.where(ids > 0, ids.astype(np.int32) - 1, IGNORE), classes
    elif classes == 2:
        target, largest = (ids > 0).astype(np.int32), None
    else:
        target, largest = ids.astype(np.int32), classes - 1
    if largest is not None and ids.size and int(ids.max()) > largest:
        raise InputError(
            f"got label {int(ids.max())} in {name}, expected at most {largest} "
            f"({', '.join(settings.class_names)}); name all classes or relabel"
        )
    return target.astype(np.int16)


class Cache:
    """Values by key; the longest unused leave first when ``limit`` bytes are full."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, which is now the newest used, or ``None``."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value`` of ``size`` bytes; one value is kept however large it is."""
        self.bytes += size - self._held.pop(key, (None, 0))[1]
        self._held[key] = (value, size)
        while len(self._held) > 1 and self.bytes > self.limit:
            self.bytes -= self._held.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.bytes = 0
