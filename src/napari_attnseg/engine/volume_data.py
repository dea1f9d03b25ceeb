"""Whole volumes to train on: random patches of them, and their slices to be judged by.

Any source of labelled slices becomes one of volumes. A volume is parted into a few *blocks* of
neighbouring slices; a ``Slice`` of this source is a block, its ``z`` the first slice in the
network's standing. So volumes, or where there are few, blocks of them are kept back for
validation, and no label of a block that is kept back is ever learnt from.

Legend: C = channels, D, H, W = working voxels in the network's standing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.engine.augment import Batch, Draw, vary_light
from napari_attnseg.engine.data import Source
from napari_attnseg.engine.examples import Cache, Pair, Slice, network_input
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.engine.turned import depth_along
from napari_attnseg.engine.windows import PATCH, Size, Windows, between
from napari_attnseg.errors import InputError

BLOCKS = 5
"""Blocks of a volume: one of them is a fifth."""
PLACES = 20_000
"""Voxels of a class among which the middle of a patch is drawn."""
VOLUME_BYTES = 1 << 30
"""Prepared volumes that are kept; beyond it the longest unused are prepared again."""


@dataclass(frozen=True)
class Whole:
    """A volume: ``image`` float32 (C, D, H, W), ``target`` int16 (D, H, W), ``block``: number of
    the block of every slice, ``places``: of each class some voxels (n, 3)."""

    image: torch.Tensor
    target: torch.Tensor
    block: np.ndarray
    places: dict[int, np.ndarray]


class VolumeSource(Source):
    """The volumes of ``inner``. ``held``: blocks whose labels are kept back."""

    def __init__(self, inner: Source) -> None:
        super().__init__()
        self.inner = inner
        self.held: frozenset[Slice] = frozenset()
        self._wholes = Cache(VOLUME_BYTES)

    @property
    def patch(self) -> Size:
        """Sides of a patch (D, H, W)."""
        sides = self.preprocessing.patch or PATCH
        if len(sides) != 3 or min(sides) < 1:
            raise InputError(f"got patch={sides}, expected three numbers: slices, rows, columns")
        return sides[0], sides[1], sides[2]

    def find(self) -> Iterator[None]:
        yield from self.inner.scan(self.settings)
        self._take()

    def refresh(self) -> bool:
        if not self.inner.refresh():
            return False
        self._take()
        return True

    def keep_back(self, slices: Iterable[Slice]) -> None:
        """Never show the labels of these blocks to a patch."""
        self.held = frozenset(slices)

    def pair(self, index: int) -> Pair:
        return self.inner.pair(index)

    def describe(self) -> dict[str, Any]:
        pairs = len({s.pair for s in self.slices})
        return {**self.inner.describe(), "volumes": pairs, "blocks": len(self.slices)}

    def class_counts(self, slices: tuple[Slice, ...]) -> Iterator[np.ndarray]:
        classes = len(self.settings.class_names)
        for slice_ in slices:
            target = np.asarray(self.whole(slice_.pair).target)[self.planes(slice_)]
            yield np.bincount(target[target != IGNORE].ravel(), minlength=classes)[:classes]

    def planes(self, slice_: Slice) -> range:
        """The working slices of a block."""
        block = self.whole(slice_.pair).block
        own = np.flatnonzero(block == slice_.z)
        return range(int(own[0]), int(own[-1]) + 1)

    def whole(self, index: int) -> Whole:
        """The volume of pair ``index`` at working size (kept: do not write into it)."""
        found: Whole | None = self._wholes.get(index)
        if found is None:
            found = self._prepared(self.pair(index))
            size = found.image.nbytes + found.target.nbytes
            self._wholes.put(index, found, size)
        return found

    def windows(self, index: int) -> Windows:
        """The windows of this volume at working size."""
        image = self.whole(index).image
        size = (image.shape[1], image.shape[2], image.shape[3])
        return Windows(size, size, self.patch, lambda z: image[None, :, z])

    def drawn(
        self, slice_: Slice, draw: Draw, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A random patch about a voxel of this block: image (C, d, h, w), target (d, h, w)."""
        whole = self.whole(slice_.pair)
        centre = _centre(whole, self.planes(slice_), rng)
        spans = [
            _span(at, side, length, rng)
            for at, side, length in zip(centre, self.patch, whole.target.shape, strict=True)
        ]
        part = tuple(spans)
        target = whole.target[part].clone()
        for i, z in enumerate(range(spans[0].start, spans[0].stop)):
            if Slice(slice_.pair, int(whole.block[z])) in self.held:
                target[i] = IGNORE
        image = whole.image[(slice(None), *part)].clone()
        return varied(image, target, draw, rng) if draw.augment else (image, target)

    # -- inside ----------------------------------------------------------------------------------

    def _take(self) -> None:
        inner, p = self.inner, self.inner.preprocessing
        if p.size:
            raise InputError(
                f"got size={p.size} for a 3D model, expected none; leave it out, or give "
                "spacing_mm for the size of a voxel"
            )
        self.settings, self.notes, self.seen = inner.settings, list(inner.notes), inner.seen
        self._wholes.clear()
        pairs = sorted({s.pair for s in inner.slices})
        if all(len(self.pair(i).view) == 1 for i in pairs):
            raise InputError("got images of one slice, expected volumes for a 3D model")
        found = [Slice(i, int(b)) for i in pairs for b in np.unique(self.whole(i).block)]
        told = {i: np.asarray(self.whole(i).target) for i in pairs}
        self.slices = tuple(s for s in found if (told[s.pair][self.planes(s)] != IGNORE).any())
        marked = (s for s in self.slices if (told[s.pair][self.planes(s)] > 0).any())
        self.marked = frozenset(marked)

    def _prepared(self, pair: Pair) -> Whole:
        p, count = self.preprocessing, len(pair.view)
        order = range(count)[::-1] if pair.flips[0] else range(count)
        depth = depth_along(count, p, pair.spacing_mm)
        planes: list[torch.Tensor] = []
        for index in range(depth):
            first, second, share = between(index, depth, count)
            plane = network_input(pair, order[first], p)
            if share > 0:
                plane = torch.lerp(plane, network_input(pair, order[second], p), share)
            planes.append(plane)
        image = torch.stack(planes, 1)
        target = torch.from_numpy(np.ascontiguousarray(upright_volume(pair.target, pair.flips)))
        if target.shape != image.shape[1:]:
            as_float = target[None, None].float()
            target = F.interpolate(as_float, image.shape[1:], mode="nearest-exact")[0, 0].short()
        block = np.arange(depth) * min(BLOCKS, depth) // depth
        return Whole(image, target, np.searchsorted(block, block), _places(target.numpy()))


def upright_volume(array: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """(Z, Y, X) turned to stand as in training, and back (a view)."""
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _places(target: np.ndarray) -> dict[int, np.ndarray]:
    """Some voxels of each class, and under ``IGNORE`` of any."""
    rng = np.random.default_rng(0)
    found: dict[int, np.ndarray] = {}
    for value in (IGNORE, *(int(v) for v in np.unique(target) if v != IGNORE)):
        flat = np.flatnonzero(target != IGNORE if value == IGNORE else target == value)
        if len(flat) > PLACES:
            flat = np.sort(rng.choice(flat, PLACES, replace=False))
        found[value] = np.stack(np.unravel_index(flat, target.shape), 1)
    return found


def _centre(whole: Whole, planes: range, rng: np.random.Generator) -> tuple[int, int, int]:
    """A labelled voxel of a block: half the time of a class drawn evenly, else any."""
    own = {
        value: places[(places[:, 0] >= planes.start) & (places[:, 0] < planes.stop)]
        for value, places in whole.places.items()
    }
    classes = [value for value, places in own.items() if value != IGNORE and len(places)]
    places = own[IGNORE]
    if classes and (rng.random() < 0.5 or not len(places)):
        places = own[int(rng.choice(classes))]
    if not len(places):
        middle = [n // 2 for n in whole.target.shape[1:]]
        return (planes.start + planes.stop) // 2, middle[0], middle[1]
    z, y, x = (int(v) for v in places[rng.integers(len(places))])
    return z, y, x


def _span(centre: int, side: int, length: int, rng: np.random.Generator) -> slice:
    """``side`` voxels about the centre, moved by up to a quarter, inside the volume."""
    if length <= side:
        return slice(0, length)
    first = centre - side // 2 + int(rng.integers(-(side // 4), side // 4 + 1))
    first = min(max(first, 0), length - side)
    return slice(first, first + side)


def varied(
    image: torch.Tensor, target: torch.Tensor, draw: Draw, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch turned within its slices by up to 10 degrees, scaled by up to a tenth and, where it
    has no left and up of its own, mirrored; what comes from outside the patch is ignored."""
    scaled = draw.kind == "all"
    angle = np.radians(rng.uniform(-10, 10))
    scale = rng.uniform(0.9, 1.1) if scaled else 1.0
    mirror = [1.0, 1.0, 1.0] if draw.oriented else [float(rng.choice((-1, 1))) for _ in range(3)]
    d, h, w = target.shape
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s * h / w, 0], [s * w / h, c, 0], [0, 0, 1]]) * scale  # in x, y, z
    theta = torch.from_numpy(turn @ np.diag(mirror)).float()
    grid = F.affine_grid(
        torch.cat([theta, torch.zeros(3, 1)], 1)[None], [1, 1, d, h, w], align_corners=False
    )
    moved = F.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    shifted = (target - IGNORE).float()[None, None]
    found = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[0, 0] + IGNORE
    light = vary_light(moved, rng) if scaled else moved
    return light, found.round().to(torch.int16)


def collate_patches(items: list[tuple[torch.Tensor, torch.Tensor]]) -> Batch:
    """Stack to (B, C, D, H, W) and (B, D, H, W); smaller ones are padded, the padding ignored."""
    sizes = np.array([target.shape for _, target in items]).max(0)
    images, targets = [], []
    for image, target in items:
        more = [int(n - own) for n, own in zip(sizes, target.shape, strict=True)]
        pad = [n for last in reversed(more) for n in (0, last)]
        images.append(F.pad(image[None], pad, mode="replicate")[0])
        targets.append(F.pad(target, pad, value=IGNORE))
    return torch.stack(images), torch.stack(targets)
