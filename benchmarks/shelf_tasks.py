"""Two small tasks for every attention of the shelf, and the networks that learn them.

*Nuclei*: images brought to 64 x 64; a U-Net that halves twice, attention at its natural place but
not on the finest grid (where N = 4096 would cost a dense one hours on a small machine).

*Far*: in 24 x 48 pixels of noise a square lies in one corner and a marker in the opposite one. The
marker's colour says whether the square is foreground. A U-Net that halves once sees 9 pixels far:
the marker is beyond its sight, so without attention it can only guess. The network has no
normalisation of its own, no padding by copies and no pooling of the whole map.

Attention along the slices of a volume has tasks of its own in stacks of four slices: on nuclei four
noisy shots of one image, and far means that the marker lies in another slice, at the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule, create_attention, register_attention
from napari_attnseg.engine.experiment.plan_compare import START, natural
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.preprocess import intensity_limits, normalize, resize
from napari_attnseg.io.layouts import Item, Layout, find_layout, read_item
from napari_attnseg.settings import Preprocessing, TrainSettings

SIDE, BATCH, STEPS = 64, 4, 120
"""Of the nuclei: side of the images, images per step, steps."""
FAR = (24, 48)
FAR_BATCH, FAR_STEPS, LOOK = 8, 400, 25
"""Of the far task: scenes per step, most steps, steps between two looks whether it is solved."""
GAMMA_FACTOR = 10.0
SLICES = 4
SQUARE, MARKER = 5, 6
NOISE = 0.1
SHOT_NOISE = 0.1
"""Deviation of the noise of one shot of a stack; images reach from 0 to 1."""
COARSE = {"skip": "skip[1:]", "decoder": "decoder[1:]"}
ARGUMENTS = {
    **dict.fromkeys(("se", "sk", "gather_excite", "cbam", "bam", "frequency"), "reduction=4"),
    "dynamic_conv": f"reduction=1,anneal={STEPS // 2}",
}
"""Options beside the defaults: a sixteenth of so few channels would be a single number, and the
temperature falls faster than over the default 1000 steps."""
FAR_ARGUMENTS = {**ARGUMENTS, "dynamic_conv": "reduction=1,anneal=200"}
"""The same for the far task, which is learned in more steps."""
STACKED = "temporal"
Batch = tuple[Tensor, Tensor]


@register_attention("temporal_of_stacks", kinds=("spatial", "row"))
class TemporalOfStacks(AttentionModule):
    """Attention along the slices of stacks that lie one after the other in the batch."""

    maps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along = create_attention(STACKED, channels)

    def forward(self, x: Tensor) -> Tensor:
        stacks = x.unflatten(0, (-1, SLICES)).movedim(1, 2)
        y: Tensor = self.along(stacks).movedim(2, 1).flatten(0, 1)
        return y


def placed(name: str, coarse: bool) -> str:
    """The attention's natural place in words; ``coarse`` leaves out the finest grid."""
    if not name:
        return ""
    place = natural(name).partition("=")[0]
    use = "temporal_of_stacks" if name == STACKED else name
    said = ARGUMENTS if coarse else FAR_ARGUMENTS
    options = f":{said[name]}" if name in said else ""
    return f"{COARSE.get(place, place) if coarse else place}={use}{options}"


def learner(name: str, far: bool, seed: int = 0) -> Learner:
    """A fresh network with this attention (empty: none) and what trains it."""
    options = {"width": 0.25, "levels": 1 if far else 2, "norm": not far}
    settings: TrainSettings = replace(
        START,
        options={**options, "attention": placed(name, coarse=not far)},
        preprocessing=Preprocessing(channels=3, intensity="unit", mean=(0.0,) * 3, std=(1.0,) * 3),
        lr=3e-3 if far else 2e-3,
        schedule="none" if far else "onecycle",
        seed=seed,
    )
    return Learner(settings, torch.device("cpu"))


def hasten(learning: Learner) -> None:
    """Weights of whole branches that begin at 0 take longer steps, as in the project's recipes."""
    own = [p for n, p in learning.model.named_parameters() if n.endswith(".gamma") and p.dim() == 0]
    if not own:
        return
    for group in learning.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if all(p is not q for q in own)]
    fast = {"params": own, "factor": GAMMA_FACTOR, "weight_decay": 0.0}
    learning.optimizer.add_param_group(fast)


def one_step(learning: Learner, batch: Batch, step: int, steps: int) -> None:
    """Learn one batch."""
    seed = [learning.settings.seed, 4, step]
    for _ in learning.learn(*batch, step / steps, seed):
        pass


# --- nuclei ---------------------------------------------------------------------------------------


def nuclei(folder: Path) -> tuple[Batch, Batch]:
    """Training and test part: images (n, 3, 64, 64) in [0, 1] and targets (n, 64, 64)."""
    layout = find_layout(folder)
    train, test = (_read(layout, items) for items in (layout.train, layout.test))
    return train, test


def _read(layout: Layout, items: tuple[Item, ...]) -> Batch:
    settings = Preprocessing(channels=3, intensity="unit", mean=(0.0,) * 3, std=(1.0,) * 3)
    images, targets = [], []
    for item in items:
        volume, target = read_item(item, layout.labels)
        limits = intensity_limits(volume.view, volume.rgb, settings)
        image = torch.from_numpy(normalize(volume.view[0], volume.rgb, settings, limits))
        images.append(resize(image[None], (SIDE, SIDE), True))
        mask = torch.from_numpy((target[0] > 0).astype(np.float32))[None, None]
        targets.append(F.interpolate(mask, (SIDE, SIDE), mode="area")[:, 0] >= 0.5)
    return torch.cat(images), torch.cat(targets).long()


def nuclei_batches(train: Batch, stacked: bool, seed: int) -> Iterator[Batch]:
    """Endless batches, mirrored and turned; in stacks: noisy shots of one image."""
    rng = np.random.default_rng([seed, 2])
    images, targets = train
    while True:
        chosen = rng.permutation(len(images))
        for first in range(0, len(chosen) - BATCH + 1, BATCH):
            ids = chosen[first : first + (2 if stacked else BATCH)]
            x, t = images[ids], targets[ids]
            turns = int(rng.integers(4))
            x, t = x.rot90(turns, (2, 3)), t.rot90(turns, (1, 2))
            if rng.integers(2):
                x, t = x.flip(3), t.flip(2)
            yield shots((x, t), int(rng.integers(2**31))) if stacked else (x, t)


def shots(batch: Batch, seed: int) -> Batch:
    """Every image as a stack of noisy shots, one after the other."""
    x, t = (part.repeat_interleave(SLICES, 0) for part in batch)
    generator = torch.Generator().manual_seed(seed)
    return x + SHOT_NOISE * torch.randn(x.shape, generator=generator), t


def learn_nuclei(name: str, train: Batch, seed: int = 0, stacked: bool = False) -> Learner:
    """The short training."""
    learning = learner(name, far=False, seed=seed)
    hasten(learning)
    batches = nuclei_batches(train, stacked, seed)
    for step in range(STEPS):
        one_step(learning, next(batches), step, STEPS)
    return learning


# --- far ------------------------------------------------------------------------------------------


def far_scenes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, 24, 48), targets, and where the squares lie (both (n, 24, 48))."""
    rng = np.random.default_rng([seed, 7])
    images = rng.normal(0, NOISE, (count, 3, *FAR)).astype(np.float32)
    squares = np.zeros((count, *FAR), bool)
    shown = rng.permutation(count) % 2  # as many of one class as of the other
    for image, where, foreground in zip(images, squares, shown, strict=True):
        y, x = rng.integers(0, 2), rng.integers(0, 6)
        where[y : y + SQUARE, x : x + SQUARE] = True
        image[0][where] += 1
        y, x = FAR[0] - MARKER - rng.integers(0, 2), FAR[1] - MARKER - rng.integers(0, 5)
        image[1 + foreground, y : y + MARKER, x : x + MARKER] += 1
        for axis in (0, 1):
            if rng.integers(2):
                image[:] = np.flip(image, axis + 1).copy()
                where[:] = np.flip(where, axis).copy()
    targets = squares & (shown == 1)[:, None, None]
    return torch.from_numpy(images), torch.from_numpy(targets).long(), torch.from_numpy(squares)


def far_stacks(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same in stacks: the marker lies in another slice, where the square lies in its own."""
    rng = np.random.default_rng([seed, 8])
    stacks = -(-count // SLICES)
    images = rng.normal(0, NOISE, (stacks, SLICES, 3, *FAR)).astype(np.float32)
    squares = np.zeros((stacks, SLICES, *FAR), bool)
    shown = rng.permutation(stacks) % 2
    for image, where, foreground in zip(images, squares, shown, strict=True):
        own, other = rng.permutation(SLICES)[:2]
        y, x = (rng.integers(0, n - MARKER) for n in FAR)
        where[own, y : y + SQUARE, x : x + SQUARE] = True
        image[own, 0][where[own]] += 1
        image[other, 1 + foreground, y : y + MARKER, x : x + MARKER] += 1
    targets = squares & (shown == 1)[:, None, None, None]
    flat = (torch.from_numpy(a).flatten(0, 1) for a in (images, targets, squares))
    x, t, s = flat
    return x, t.long(), s


def scenes_of(name: str) -> Callable[[int, int], tuple[Tensor, Tensor, Tensor]]:
    """The far task of an attention."""
    return far_stacks if name == STACKED else far_scenes


def solved(learning: Learner, scenes: tuple[Tensor, Tensor, Tensor]) -> float:
    """Share of the squares whose majority of pixels has the right class."""
    images, targets, squares = scenes
    logits = torch.cat([learning.logits_of(part, {}) for part in images.split(32)])[:, 0]
    there = squares.flatten(1).any(1)
    said = ((logits > 0) & squares).sum((1, 2)) * 2 > squares.sum((1, 2))
    right = said == targets.flatten(1).any(1)
    return float(right[there].float().mean())


def learn_far(name: str, seed: int = 0, task: str = "") -> tuple[Learner, int]:
    """Training until it is solved (0.98 of 128 scenes kept apart, twice) or the steps are spent;
    the network and the steps. ``task``: the far task of another attention."""
    make = scenes_of(task or name)
    learning, apart, before = learner(name, far=True, seed=seed), make(128, 10_000 + seed), 0.0
    for step in range(FAR_STEPS):
        images, targets, _ = make(FAR_BATCH, 1000 * seed + step)
        one_step(learning, (images, targets), step, FAR_STEPS)
        if (step + 1) % LOOK == 0:
            now = solved(learning, apart)
            if min(now, before) >= 0.98:
                return learning, step + 1
            before = now
    return learning, FAR_STEPS


def sight(name: str, task: str = "", draws: int = 3) -> tuple[float, int, int]:
    """Of a network with random weights: the largest gradient of the square's logits at the marker,
    and how many rows and columns beyond the square any gradient reaches (double precision, the
    largest of some draws)."""
    images, _, squares = scenes_of(task or name)(SLICES, 3)
    at_marker, rows, columns = 0.0, 0, 0
    for seed in range(draws):
        model = learner(name, far=True).model.double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        x = images.double().requires_grad_()
        (model(x)[:, 0] * squares).sum().backward()
        assert x.grad is not None
        found = x.grad.abs().amax(1)
        marked = (images[:, 1:].amax(1) > 0.5) & ~squares
        at_marker = max(at_marker, float((found * marked).max()))
        for grad, square in zip(found > 0, squares, strict=True):
            if square.any() and grad.any():
                rows = max(rows, _beyond(grad.any(1), square.any(1)))
                columns = max(columns, _beyond(grad.any(0), square.any(0)))
    return at_marker, rows, columns


def _beyond(reached: Tensor, own: Tensor) -> int:
    """How far the first or last of the one lies outside the other."""
    a, b = reached.nonzero().flatten(), own.nonzero().flatten()
    return max(int(b.min() - a.min()), int(a.max() - b.max()), 0)
