"""Random crops, turns and brightness, drawn from a generator that the caller owns.

Equal generators give equal crops, which is what makes a resumed training bit-exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.engine.data import Example
from napari_attnseg.engine.losses import IGNORE

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Draw:
    """How examples are varied. ``oriented``: scans keep their left, right, up and down. ``kind``:
    ``"all"``, or ``"turns"`` without scaling and without changes of light."""

    side: int | None = None
    augment: bool = False
    oriented: bool = False
    kind: str = "all"


def pick_centre(target: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A labelled pixel: half the time of a class drawn evenly, else any labelled one."""
    known = target != IGNORE
    if rng.random() < 0.5:
        classes = np.unique(target[known])
        if len(classes):
            known = target == rng.choice(classes)
    places = np.flatnonzero(known)
    if not len(places):
        return target.shape[0] // 2, target.shape[1] // 2
    y, x = divmod(int(places[rng.integers(len(places))]), target.shape[1])
    return y, x


def _inside(centre: int, side: int, length: int, rng: np.random.Generator) -> int:
    """Jitter the centre by up to a quarter crop and keep the crop inside where it fits."""
    if length <= side:
        return length // 2
    moved = centre + int(rng.integers(-(side // 4), side // 4 + 1))
    return min(max(moved, side // 2), length - side + side // 2)


def draw_turn(draw: Draw, rng: np.random.Generator) -> np.ndarray:
    """2x2 matrix from crop offsets to image offsets (rows, columns)."""
    if not draw.augment:
        return np.eye(2)
    scaled = draw.kind == "all"
    if draw.oriented:
        angle, mirror = math.radians(rng.uniform(-10, 10)), 1.0
        scale = rng.uniform(0.9, 1.1) if scaled else 1.0
    else:
        angle = math.radians(90 * int(rng.integers(4)) + rng.uniform(-10, 10))
        scale = 2 ** rng.uniform(-0.4, 0.4) if scaled else 1.0
        mirror = rng.choice((-1.0, 1.0))
    c, s = math.cos(angle), math.sin(angle)
    return scale * np.array([[c, -s], [s, c]]) @ np.diag([1.0, mirror])


def sample(
    image: torch.Tensor,
    target: torch.Tensor,
    centre: tuple[float, float],
    turn: np.ndarray,
    size: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A view of ``size`` (rows, columns) around ``centre``: image bilinear, target nearest,
    outside ignored.

    ``image`` (C, Y, X), ``target`` (Y, X) of the same size. The pixel at ``size // 2`` lies on
    the centre. With the identity turn this is a plain crop of pixels, up to rounding.
    """
    rows, columns = target.shape
    reach = (torch.arange(n, dtype=torch.float64) - n // 2 for n in size)
    offset = torch.stack(torch.meshgrid(*reach, indexing="ij"), -1)
    place = offset @ torch.from_numpy(turn).T + torch.tensor(centre, dtype=torch.float64)
    x = (2 * place[..., 1] + 1) / columns - 1
    y = (2 * place[..., 0] + 1) / rows - 1
    grid = torch.stack((x, y), -1)[None].float()
    moved = F.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    shifted = (target - IGNORE).float()[None, None]
    found = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[0, 0] + IGNORE
    return moved, found.round().to(torch.int16)


def vary_light(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Contrast +-20 %, brightness +-10 % and a little noise, relative to the crop's spread."""
    spread = float(image.std()) or 1.0
    noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32))
    contrast, shift = rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)
    return image * contrast + spread * (shift + rng.uniform(0, 0.1) * noise)


def draw_example(
    example: Example, draw: Draw, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One training pair: image (C, h, w), target int16 (h, w)."""
    if draw.side is None or example.image.shape[-2:] != example.target.shape:
        image, target = _whole(example)
        if not draw.augment:
            return image, target
        image, target = turned(image, target, draw_turn(draw, rng))
    else:
        y, x = pick_centre(example.target, rng)
        rows, columns = example.target.shape
        centre = (_inside(y, draw.side, rows, rng), _inside(x, draw.side, columns, rng))
        size = (draw.side, draw.side)
        target = torch.from_numpy(example.target)
        image, target = sample(example.image, target, centre, draw_turn(draw, rng), size)
    light = draw.augment and draw.kind == "all"
    return (vary_light(image, rng) if light else image), target


def _whole(example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole image, its target brought to the image's working size (nearest)."""
    target = torch.from_numpy(example.target)
    if target.shape == example.image.shape[-2:]:
        return example.image, target
    size = example.image.shape[-2:]
    resized = F.interpolate(target[None, None].float(), size=size, mode="nearest-exact")
    return example.image, resized[0, 0].to(torch.int16)


def turned(
    image: torch.Tensor, target: torch.Tensor, turn: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole image about its middle, at its own size."""
    size = np.array(target.shape)
    middle = (size - 1) / 2
    y, x = middle + turn @ (size // 2 - middle)
    return sample(image, target, (float(y), float(x)), turn, (int(size[0]), int(size[1])))


def collate(items: list[tuple[torch.Tensor, torch.Tensor]]) -> Batch:
    """Stack to (B, C, H, W) and (B, H, W); smaller ones are padded, the padding ignored."""
    rows = max(image.shape[-2] for image, _ in items)
    columns = max(image.shape[-1] for image, _ in items)
    images, targets = [], []
    for image, target in items:
        pad = (0, columns - image.shape[-1], 0, rows - image.shape[-2])
        images.append(F.pad(image[None], pad, mode="replicate")[0])
        targets.append(F.pad(target, pad, value=IGNORE))
    return torch.stack(images), torch.stack(targets)
